"""A real RTSP server on 127.0.0.1, GStreamer's: `camera` for tests; as a script, run by the system's own Python, the server."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

SYSTEM_PYTHON = "/usr/bin/python3"  # Debian's python3-gi is for it alone
ENCODERS = {
    "h264": "x264enc tune=zerolatency speed-preset=ultrafast key-int-max=10 ! rtph264pay config-interval=1 name=pay0",
    "jpeg": "jpegenc ! rtpjpegpay name=pay0",
}
PICTURES = "videotestsrc is-live=true pattern=ball ! video/x-raw,width={width},height={height},framerate=20/1,format=I420"


@cache
def missing() -> str:
    """Why there can be no server here, empty where there can."""
    code = "import gi; gi.require_version('GstRtspServer', '1.0'); from gi.repository import GstRtspServer, Gst; Gst.init(None); "
    code += "assert all(map(Gst.ElementFactory.find, ('videotestsrc', 'x264enc', 'jpegenc', 'rtph264pay')))"
    try:
        done = subprocess.run([SYSTEM_PYTHON, "-c", code], capture_output=True, timeout=60, check=False)
    except OSError:
        return "needs Debian's python3"
    return "" if done.returncode == 0 else "needs GStreamer's RTSP server: python3-gi gir1.2-gst-rtsp-server-1.0 and plugins"


@contextmanager
def camera(port: int, codec: str = "h264", width: int = 160, height: int = 120, password: str = "") -> Iterator[str]:
    """Serve a ball that moves at 20 frames per second until the block is left; the server is killed then. Yields the URL."""
    arguments = [str(port), codec, str(width), str(height), password]
    server = subprocess.Popen([SYSTEM_PYTHON, __file__, *arguments], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert server.stdout.readline() == "ready\n"
        yield f"rtsp://{f'user:{password}@' if password else ''}127.0.0.1:{port}/line"
    finally:
        server.kill()
        server.communicate()


def serve(port: str, codec: str, width: str, height: str, password: str) -> None:
    """Run the server for ever."""
    import gi

    gi.require_version("GstRtspServer", "1.0")
    from gi.repository import GLib, Gst, GstRtspServer

    Gst.init(None)
    server = GstRtspServer.RTSPServer()
    server.set_address("127.0.0.1")
    server.set_service(port)
    factory = GstRtspServer.RTSPMediaFactory()
    factory.set_launch(f"( {PICTURES.format(width=width, height=height)} ! {ENCODERS[codec]} pt={26 if codec == 'jpeg' else 96} )")
    factory.set_shared(True)
    if password:
        auth, token = GstRtspServer.RTSPAuth(), GstRtspServer.RTSPToken()
        token.set_string(GstRtspServer.RTSP_TOKEN_MEDIA_FACTORY_ROLE, "user")
        auth.add_basic(GstRtspServer.RTSPAuth.make_basic("user", password), token)
        server.set_auth(auth)
        factory.add_role_from_structure(Gst.Structure.new_from_string("user, media.factory.access=true, media.factory.construct=true"))
    server.get_mount_points().add_factory("/line", factory)
    server.attach(None)
    print("ready", flush=True)
    GLib.MainLoop().run()


if __name__ == "__main__":
    serve(*sys.argv[1:])
