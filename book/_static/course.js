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

addEventListener("resize", reachable);
document.fonts.ready.then(() => {
  reachable();
  // The theme looks, a moment after a change of the window's size, which other boxes scroll. When
  // fonts, pictures or a slow layout change the page's own size later, it is to look again.
  const article = document.querySelector(".bd-article");
  if (article) new ResizeObserver(() => dispatchEvent(new Event("resize"))).observe(article);
});
