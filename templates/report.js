
"use strict";
// Only filters: without it the report shows everything.
(() => {
  const results = [...document.querySelectorAll("#results .result")].map(
    (element) => ({ element, ...element.dataset, text: element.textContent.toLowerCase() }),
  );
  const tiles = [...document.querySelectorAll(".tile")];
  const [text, level, count, none] = ["text", "level", "count", "none"].map((id) => document.getElementById(id));
  const pressed = (tile) => tile.getAttribute("aria-pressed") === "true";
  const apply = () => {
    const verdicts = tiles.filter(pressed).map((tile) => tile.dataset.verdict);
    const words = text.value.toLowerCase().split(/\s+/);
    let shown = 0;
    for (const result of results) {
      const match = (verdicts.length === 0 || verdicts.includes(result.verdict))
        && (level.value === "" || level.value === result.level)
        && words.every((word) => result.text.includes(word));
      result.element.hidden = !match;
      shown += match;
    }
    // With programs there are fewer lines than results: say what is counted.
    count.textContent = count.dataset.beside ? `${shown} of ${results.length} lines: ${count.dataset.beside}`
      : `${shown} of ${results.length} results`;
    none.hidden = shown > 0 || results.length === 0;
  };
  for (const tile of tiles) {
    tile.addEventListener("click", () => {
      tile.setAttribute("aria-pressed", String(!pressed(tile)));
      apply();
    });
  }
  text.addEventListener("input", apply);
  level.addEventListener("change", apply);
  document.documentElement.classList.add("js");
  document.getElementById("filter").hidden = false;
  apply();
})();
