// How the site's search orders what it finds. Decisions say why the project is as it is: what a page
// for users says about the same words comes before them.
var Scorer = {
  score: ([page, , , , score]) => (page.startsWith("docs/decisions/") ? score - 20 : score),

  // These are the values of Sphinx.
  objNameMatch: 11,
  objPartialMatch: 6,
  objPrio: { 0: 15, 1: 5, 2: -5 },
  objPrioDefault: 0,
  title: 15,
  partialTitle: 7,
  term: 5,
  partialTerm: 2,
};
