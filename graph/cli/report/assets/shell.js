"use strict";
// The frame of a page: light and dark, tabs, the menu, the button that copies.
(() => {
  const root = document.documentElement;
  const wish = matchMedia("(prefers-color-scheme: dark)");
  const button = document.getElementById("theme");
  let chosen = null;
  const apply = () => {
    const dark = chosen === null ? wish.matches : chosen;
    root.classList.toggle("dark", dark);
    button.textContent = dark ? "Light" : "Dark";
    button.setAttribute("aria-label", dark ? "Use light colours" : "Use dark colours");
    document.dispatchEvent(new Event("theme"));
  };
  button.removeAttribute("aria-pressed");
  button.addEventListener("click", () => { chosen = !root.classList.contains("dark"); apply(); });
  wish.addEventListener("change", apply);
  apply();

  const tabs = [...document.querySelectorAll('[role="tab"]')];
  const open = (tab, focus) => {
    for (const each of tabs) {
      const on = each === tab;
      each.setAttribute("aria-selected", String(on));
      each.tabIndex = on ? 0 : -1;
      document.getElementById(each.getAttribute("aria-controls")).hidden = !on;
    }
    if (focus) tab.focus();
    document.dispatchEvent(new Event("shown"));
  };
  const keys = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 };
  tabs.forEach((tab, number) => {
    tab.addEventListener("click", () => open(tab, false));
    tab.addEventListener("keydown", (event) => {
      const to = event.key === "Home" ? 0 : event.key === "End" ? tabs.length - 1
        : event.key in keys ? (number + keys[event.key] + tabs.length) % tabs.length : -1;
      if (to < 0) return;
      event.preventDefault();
      open(tabs[to], true);
    });
  });
  if (tabs.length) open(tabs[0], false);

  for (const copy of document.querySelectorAll(".copy")) {
    copy.addEventListener("click", async () => {
      const text = copy.previousElementSibling;
      try {
        await navigator.clipboard.writeText(text.textContent);
        copy.textContent = "Copied";
      } catch {
        getSelection().selectAllChildren(text);
        copy.textContent = "Selected";
      }
      setTimeout(() => { copy.textContent = "Copy"; }, 1600);
    });
  }

  for (const menu of document.querySelectorAll(".menu")) {
    const links = [...menu.querySelectorAll("a")];
    const mark = () => {
      let here = links[0];
      for (const link of links) {
        const part = document.getElementById(link.hash.slice(1));
        if (part && part.getBoundingClientRect().top <= 90) here = link;
      }
      if (innerHeight + scrollY >= document.documentElement.scrollHeight - 2 && scrollY > 0) here = links[links.length - 1];
      for (const link of links) link.classList.toggle("here", link === here);
    };
    addEventListener("scroll", mark, { passive: true });
    document.addEventListener("shown", mark);
    mark();
  }

  // A small picture is enlarged, but never a large one.
  const size = (media, width) => media.classList.toggle("small-picture", width > 0 && width < 340);
  for (const image of document.querySelectorAll(".media img")) {
    if (image.complete) size(image, image.naturalWidth);
    else image.addEventListener("load", () => size(image, image.naturalWidth));
  }
  // A short clip plays by itself, unless the reader wants less motion.
  const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
  for (const clip of document.querySelectorAll(".media video")) {
    clip.addEventListener("canplay", () => {
      if (!still && clip.duration < 10) clip.play().catch(() => {});
    }, { once: true });
    clip.addEventListener("loadedmetadata", () => size(clip, clip.videoWidth));
    if (clip.readyState > 0) size(clip, clip.videoWidth);
  }
})();
