// Names and keyboard access for what the theme leaves without: its search dialog, wide tables, and the buttons of code blocks.
document$.subscribe(() => {
  document.querySelector(".md-search")?.setAttribute("aria-label", "Search");
  document.querySelectorAll(".md-typeset__scrollwrap, .md-typeset pre > code").forEach((wide) => wide.setAttribute("tabindex", "0"));
  const name = () => document.querySelectorAll(".md-code__nav").forEach((nav, k) => nav.setAttribute("aria-label", `Code block ${k + 1}`));
  name();
  setTimeout(name, 100); // the theme adds them when it has looked at the page
});
