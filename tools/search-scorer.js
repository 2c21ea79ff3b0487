// How Sphinx's search ranks what it finds (html_search_scorer): pages for readers before the API,
// unless the very name of a function is searched for. Every name begins with `promptbayes`, so that
// Sphinx's own weights put half of the API before the pages on prompts.
var Scorer = {
  objNameMatch: 30,
  objPartialMatch: 1,
  objPrio: {},
  objPrioDefault: 0,
  title: 15,
  partialTitle: 7,
  term: 5,
  partialTerm: 2,
};
