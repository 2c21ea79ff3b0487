// How Sphinx's search ranks what it finds (html_search_scorer): pages for readers before the API,
// unless a name with a dot or an underscore is searched for. Every name begins with `promptbayes`,
// so that Sphinx's own ranking puts half of the API before the pages on prompts.
var Scorer = {
  score: ([page, , , , score]) => {
    const words = new URLSearchParams(window.location.search).get("q") ?? "";
    return page === "book/reference/api" && !/[._]/.test(words) ? score - 1000 : score;
  },
  objNameMatch: 30,
  objPartialMatch: 6,
  objPrio: {},
  objPrioDefault: 0,
  title: 15,
  partialTitle: 7,
  term: 5,
  partialTerm: 2,
};
