"""Cameras, network streams and video files: their addresses, connections, and frames as they were received.

For detect.py and for the service; needs PyAV and OpenCV, no deep-learning library.
"""
