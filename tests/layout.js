// Run in a page by tests/test_browser.py: what a reader cannot get at.
// Every answer is a list of sentences; an empty list is what should be.

// Folds are opened for what follows, except in print, which has to open them by itself.
function unfold() {
  document.querySelectorAll("details").forEach((fold) => (fold.open = true));
  document.querySelectorAll(".toggle-hidden > .admonition-title").forEach((title) => title.click());
}

function fold() {
  document.querySelectorAll("article details").forEach((fold) => (fold.open = false));
}

function named(element) {
  const id = element.closest("[id]")?.id;
  const text = (element.alt || element.textContent).trim().replace(/\s+/g, " ").slice(0, 50);
  return `<${element.localName} class="${element.className}"> in #${id}: ${text}`;
}

// What is drawn: pieces of text, pictures, and the glyphs of formulas.
function drawn() {
  const pieces = [];
  const text = document.createTreeWalker(
    document.querySelector("article") ?? document.querySelector("main"), // as on the search page
    NodeFilter.SHOW_TEXT,
  );
  for (let node = text.nextNode(); node; node = text.nextNode()) {
    const parent = node.parentElement;
    if (!node.data.trim() || parent.closest("mjx-assistive-mml, svg, script, style")) continue;
    const range = document.createRange();
    range.selectNodeContents(node);
    pieces.push([parent, range.getBoundingClientRect()]);
  }
  for (const element of document.querySelectorAll("article :is(img, svg, mjx-c)")) {
    if (!element.closest("mjx-assistive-mml")) {
      pieces.push([element, element.getBoundingClientRect()]);
    }
  }
  return pieces.filter(([element, box]) => box.width > 1 && box.height > 1);
}

// Whatever is drawn outside of the screen or of a box that clips it, without a way to it.
// A box that scrolls is one where it takes the keyboard's focus and shows that it goes on.
function cut(printed) {
  const found = new Map();
  const clips = new Map();
  const clip = (element) => {
    if (!clips.has(element)) {
      const style = getComputedStyle(element);
      clips.set(element, {
        x: style.overflowX,
        y: style.overflowY,
        box: element.getBoundingClientRect(),
        inline: style.display === "inline",
      });
    }
    return clips.get(element);
  };
  for (const [element, drawnBox] of drawn()) {
    if (element.closest(".headerlink, .copybtn, .sr-only, .visually-hidden")) continue;
    let { left, right, top, bottom } = drawnBox;
    let holder = element;
    for (; holder !== document.body; holder = holder.parentElement) {
      if (holder === element && ["IMG", "SVG"].includes(element.tagName.toUpperCase())) continue;
      const { x, y, box, inline } = clip(holder);
      if (inline) continue;
      const beyond = right > box.right + 1.5 || left < box.left - 1.5;
      if (x !== "visible" && beyond) {
        const scrolls = ["auto", "scroll"].includes(x) && !printed && left >= box.left - 1.5;
        if (!scrolls) found.set(holder, `is cut sideways: ${named(element)}`);
        else if (holder.tabIndex < 0) found.set(holder, "scrolls, but the keyboard cannot get in");
        else if (!holder.classList.contains("scrolls")) found.set(holder, "does not show that it scrolls");
        if (found.has(holder)) break;
        left = Math.max(left, box.left);
        right = Math.min(right, box.right);
      }
      // A glyph's box is as high as its font; two pixels of it are empty.
      if (["hidden", "clip"].includes(y) && (top < box.top - 2.5 || bottom > box.bottom + 2.5)) {
        found.set(holder, `is cut at its top or bottom: ${named(element)}`);
        break;
      }
    }
    if (holder === document.body && (right > innerWidth + 1 || left < -1)) {
      found.set(element, "leaves the page");
    }
  }
  return [...found].map(([holder, problem]) => `${named(holder)} ${problem}`);
}

function sideways() {
  const wide = document.documentElement.scrollWidth;
  return wide > innerWidth ? [`the page scrolls sideways, ${wide} > ${innerWidth} pixels`] : [];
}

// In print nothing scrolls and nothing can be unfolded.
function hidden() {
  const found = [];
  for (const element of document.querySelectorAll(
    "article :is(p, pre, li, img, table, mjx-container):not(mjx-assistive-mml *)",
  )) {
    if (element.closest(".only-dark, .only-light, summary, .headerlink")) continue;
    const empty = !element.textContent.trim() && !element.matches("img");
    if (!empty && !element.checkVisibility({ checkOpacity: true, checkVisibilityCSS: true })) {
      found.push(`${named(element)} is not printed`);
    }
  }
  return found;
}

function ids() {
  const all = [...document.querySelectorAll("[id]")].map((element) => element.id);
  const twice = all.filter((id, i) => all.indexOf(id) !== i);
  return [...new Set(twice)].map((id) => `the id ${id} stands for two things`);
}

function formulas() {
  return [...document.querySelectorAll("mjx-merror")].map((error) => {
    return `a formula is wrong: ${error.getAttribute("title") || error.textContent}`;
  });
}

async function violations(rules) {
  const result = await axe.run(document, {
    resultTypes: ["violations"],
    rules: Object.fromEntries(Object.entries(rules).map(([rule, on]) => [rule, { enabled: on }])),
  });
  return result.violations.flatMap(({ id, help, nodes }) =>
    nodes.map((node) => `${id} (${help}): ${node.target.join(" ")} ${node.html.slice(0, 120)}`),
  );
}
