// An equation that is wider than the page scrolls in its own box, by keyboard as well.
function reachable() {
  for (const box of document.querySelectorAll(".bd-article div.math")) {
    const wide = box.scrollWidth > box.clientWidth;
    if (wide) {
      box.tabIndex = 0;
      box.setAttribute("role", "group");
      box.setAttribute("aria-label", "Equation, scrolls sideways");
    } else {
      for (const name of ["tabindex", "role", "aria-label"]) box.removeAttribute(name);
    }
  }
}

document.fonts.ready.then(reachable);
addEventListener("resize", reachable);
