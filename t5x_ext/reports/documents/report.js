"use strict";
// Adds to a page that is complete without it: values under the pointer, and choosing a setting and
// a category. Texts are only ever set as text, never as markup.
(() => {
  const figure = document.querySelector(".chart");
  const tip = document.getElementById("tip");
  const controls = document.querySelector(".controls");
  const chosen = { setting: "", category: "" };

  function update() {
    for (const part of document.querySelectorAll("[data-setting]")) {
      part.hidden = Boolean(chosen.setting) && part.dataset.setting !== chosen.setting;
    }
    for (const panel of figure.querySelectorAll("[data-category]")) {
      panel.hidden = panel.hidden || panel.dataset.category !== chosen.category;
    }
    for (const row of document.querySelectorAll("tr[data-category]")) {
      row.hidden = Boolean(chosen.category) && row.dataset.category !== chosen.category;
    }
    const shown = figure.querySelectorAll(".panel:not([hidden])");
    figure.classList.toggle("single", shown.length === 1);
    document.getElementById("nothing").hidden = shown.length > 0;
    hide();
  }

  function show(mark) {
    const [name, value, ...rest] = mark.getAttribute("aria-label").split("\n");
    const lines = [["strong", name], ["b", value], ...rest.map((text) => ["span", text])];
    tip.replaceChildren(...lines.map(([kind, text]) => {
      const line = document.createElement(kind);
      line.textContent = text;
      return line;
    }));
    tip.hidden = false;
    const at = mark.querySelector(".reach").getBoundingClientRect();
    const room = document.documentElement.clientWidth - tip.offsetWidth - 8;
    tip.style.left = `${Math.max(8, Math.min(room, at.left + at.width / 2 + 12)) + scrollX}px`;
    const above = at.top - tip.offsetHeight - 6;
    tip.style.top = `${(above < 4 ? at.bottom + 6 : above) + scrollY}px`;
  }

  function hide() {
    tip.hidden = true;
  }

  for (const mark of figure.querySelectorAll(".mark")) {
    const title = mark.querySelector("title");
    mark.setAttribute("aria-label", title.textContent);
    title.remove(); // or the browser would show a second, slower tooltip
    for (const event of ["pointerenter", "focus"]) mark.addEventListener(event, () => show(mark));
    for (const event of ["pointerleave", "blur"]) mark.addEventListener(event, hide);
  }
  document.addEventListener("keydown", (event) => event.key === "Escape" && hide());

  // What the address names is chosen from the start, so that a view can be linked to.
  const wanted = new URLSearchParams(location.hash.slice(1));
  for (const control of controls.querySelectorAll("input, select")) {
    if (control.type === "radio") control.checked = control.value === (wanted.get(control.name) ?? "");
    else control.value = wanted.get(control.name) ?? "";
    control.addEventListener("change", () => {
      chosen[control.name] = control.value;
      update();
    });
    if (control.type !== "radio" || control.checked) chosen[control.name] = control.value;
  }
  controls.hidden = false;
  update();
})();
