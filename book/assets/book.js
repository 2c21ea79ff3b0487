// Marks the boxes that scroll sideways: book.css shows that they go on, and the keyboard can get in.
const BOXES = "div.math > mjx-container, span.math, pre, table, .cell_output, .output, " +
  ".pst-scrollable-table-container";

function markScrolling(article) {
  const boxes = [...article.querySelectorAll(BOXES)];
  const wide = boxes.map((box) => box.scrollWidth > box.clientWidth + 1);
  boxes.forEach((box, i) => {
    box.classList.toggle("scrolls", wide[i]);
    if (wide[i]) box.tabIndex = 0;
    else box.removeAttribute("tabindex");
  });
}

// The page changes its size with the window, and when a formula is typeset or something unfolded.
document.addEventListener("DOMContentLoaded", () => {
  const article = document.querySelector(".bd-article");
  if (article) new ResizeObserver(() => markScrolling(article)).observe(article);
});
