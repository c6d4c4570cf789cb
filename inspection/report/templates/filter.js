"use strict";
// Filters of the images: group, class and file name. Their state is in the address, so that it goes along to other pages.
(() => {
  const index = JSON.parse(document.getElementById("index").textContent);
  const cards = [...document.querySelectorAll(".card")];
  const buttons = [...document.querySelectorAll("[data-filter]")];
  const links = [...document.querySelectorAll("[data-page]")];
  const chosen = document.getElementById("class"), search = document.getElementById("search");
  const state = new URLSearchParams(location.hash.slice(1));
  links.forEach((link) => { link.dataset.address = link.getAttribute("href"); });

  const wanted = (group, classes) =>
    (!state.get("group") || state.get("group") === group) &&
    (!state.get("class") || classes.includes(state.get("class")));

  function show() {
    const text = (state.get("name") || "").toLowerCase();
    let shown = 0;
    for (const card of cards) {
      const fits = wanted(card.dataset.group, card.dataset.classes.split(" ")) && card.dataset.name.toLowerCase().includes(text);
      card.hidden = !fits;
      shown += fits;
    }
    document.getElementById("none").hidden = shown > 0;
    buttons.forEach((button) => button.setAttribute("aria-pressed", button.dataset.filter === (state.get("group") || "")));
    const filtered = state.get("group") || state.get("class");
    const counts = {};
    for (const [page, group, classes, count] of index.rows)
      if (wanted(group, classes.map(String))) counts[page] = (counts[page] || 0) + count;
    for (const link of links) {
      link.href = link.dataset.address + "#" + state;
      link.querySelector("small").textContent = filtered ? counts[link.dataset.page] || 0 : "";
    }
  }

  function set(key, value) {
    if (value) state.set(key, value); else state.delete(key);
    try { history.replaceState(null, "", "#" + state); } catch { /* some viewers of attachments forbid it */ }
    show();
  }

  buttons.forEach((button) => button.addEventListener("click", () => set("group", button.dataset.filter)));
  chosen.addEventListener("change", () => set("class", chosen.value));
  search.addEventListener("input", () => set("name", search.value));
  chosen.value = state.get("class") || "";
  search.value = state.get("name") || "";
  show();
})();
