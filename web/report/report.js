// Comforts of the report page: everything is readable without them.
"use strict";
(() => {
  const make = (name, text) => {
    const element = document.createElement(name);
    if (text !== undefined) element.textContent = text;
    return element;
  };
  const button = (text, act) => {
    const element = make("button", text);
    element.type = "button";
    element.addEventListener("click", act);
    return element;
  };

  // Light and dark: the system's choice until the button is used; a page from disk may have no storage.
  const root = document.documentElement;
  const store = {
    get() { try { return localStorage.getItem("freelunch-theme"); } catch { return null; } },
    set(value) { try { localStorage.setItem("freelunch-theme", value); } catch { /* not kept */ } },
  };
  const saved = store.get();
  if (saved === "light" || saved === "dark") root.dataset.theme = saved;
  const isDark = () => root.dataset.theme
    ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  const theme = button("", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    store.set(root.dataset.theme);
    name();
  });
  const name = () => { theme.textContent = isDark() ? "Light" : "Dark"; };
  name();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", name);
  document.querySelector(".overline").append(theme);

  // Copy buttons.
  for (const pre of document.querySelectorAll(".copybox > pre")) {
    const copy = button("Copy", async () => {
      try {
        await navigator.clipboard.writeText(pre.textContent);
        copy.textContent = "Copied";
      } catch {
        getSelection().selectAllChildren(pre);
        copy.textContent = "Selected";
      }
      setTimeout(() => { copy.textContent = "Copy"; }, 1500);
    });
    pre.before(copy);
  }

  // Tips: the marks' own titles, shown at once, for mouse, touch and keyboard.
  const tip = make("div");
  tip.id = "tip";
  tip.hidden = true;
  tip.setAttribute("role", "status");
  document.body.append(tip);
  for (const title of document.querySelectorAll("svg .m > title")) {
    const mark = title.parentNode;
    mark.dataset.tip = title.textContent;
    mark.setAttribute("aria-label", title.textContent);
    mark.setAttribute("tabindex", "0");
    title.remove();
  }
  const place = (x, y) => {
    const box = tip.getBoundingClientRect();
    const left = Math.min(x + 14, innerWidth - box.width - 8);
    const top = y + 18 + box.height > innerHeight ? y - box.height - 12 : y + 18;
    tip.style.left = Math.max(8, left) + "px";
    tip.style.top = Math.max(8, top) + "px";
  };
  const show = (marks, x, y) => {
    (marks[0].closest("dialog") || document.body).append(tip);
    const short = (text) => text.split("\n").slice(0, 2).join(": ");
    tip.textContent = marks.length === 1 ? marks[0].dataset.tip : marks.map((mark) => short(mark.dataset.tip)).join("\n");
    tip.hidden = false;
    place(x, y);
  };
  // Points of several lines often fall together: all that lie under the pointer speak.
  const kMostTips = 6;
  const marksAt = (x, y) => [...new Set(document.elementsFromPoint(x, y)
    .map((element) => element.closest("[data-tip]")).filter(Boolean))].slice(0, kMostTips);
  document.addEventListener("pointermove", (event) => {
    const marks = event.target.closest && event.target.closest("[data-tip]") ? marksAt(event.clientX, event.clientY) : [];
    if (marks.length) show(marks, event.clientX, event.clientY); else tip.hidden = true;
  });
  document.addEventListener("focusin", (event) => {
    const mark = event.target.closest("[data-tip]");
    if (mark) {
      const box = mark.getBoundingClientRect();
      show([mark], box.left + box.width / 2, box.top + box.height / 2);
    } else tip.hidden = true;
  });
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") tip.hidden = true; });

  // A plot in a window of its own: wheel or + and - zoom, dragging moves, 0 resets.
  const enlarge = (svg, title) => {
    const dialog = make("dialog");
    const copy = svg.cloneNode(true);
    const full = copy.viewBox.baseVal;
    const home = [full.x, full.y, full.width, full.height];
    let view = home.slice();
    const apply = () => copy.setAttribute("viewBox", view.join(" "));
    const zoom = (factor, fx, fy) => {
      const width = Math.min(home[2] * 1.2, Math.max(home[2] / 20, view[2] * factor));
      const ratio = width / view[2];
      view = [view[0] + view[2] * (1 - ratio) * fx, view[1] + view[3] * (1 - ratio) * fy, width, view[3] * ratio];
      apply();
    };
    const reset = () => { view = home.slice(); apply(); };
    copy.addEventListener("wheel", (event) => {
      event.preventDefault();
      const box = copy.getBoundingClientRect();
      zoom(event.deltaY > 0 ? 1.15 : 1 / 1.15, (event.clientX - box.left) / box.width,
        (event.clientY - box.top) / box.height);
    }, { passive: false });
    copy.addEventListener("pointerdown", (event) => copy.setPointerCapture(event.pointerId));
    copy.addEventListener("pointermove", (event) => {
      if (event.buttons !== 1) return;
      const scale = view[2] / copy.getBoundingClientRect().width;
      view[0] -= event.movementX * scale;
      view[1] -= event.movementY * scale;
      apply();
    });
    const bar = make("div");
    bar.className = "bar";
    bar.append(make("span", title), button("+", () => zoom(1 / 1.3, 0.5, 0.5)), button("\u2212", () => zoom(1.3, 0.5, 0.5)),
      button("Reset", reset), button("Close", () => dialog.close()));
    dialog.addEventListener("keydown", (event) => {
      if (event.key === "+" || event.key === "=") zoom(1 / 1.3, 0.5, 0.5);
      else if (event.key === "-") zoom(1.3, 0.5, 0.5);
      else if (event.key === "0") reset();
    });
    dialog.addEventListener("close", () => {
      document.body.append(tip);
      tip.hidden = true;
      dialog.remove();
    });
    dialog.append(bar, copy);
    document.body.append(dialog);
    dialog.showModal();
  };
  for (const svg of document.querySelectorAll(".panel > svg")) {
    const panel = svg.parentNode;
    const label = panel.querySelector(".name");
    const title = svg.getAttribute("aria-label");
    const open = button("Enlarge", () => enlarge(svg, title));
    open.className = "tools";
    open.setAttribute("aria-label", "Enlarge: " + title);
    if (label) label.append(open); else panel.prepend(open);
  }
})();
