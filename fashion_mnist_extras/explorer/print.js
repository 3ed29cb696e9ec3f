// Printing: all chapters, one on a page, and the answers on a page of their own.

window.onbeforeprint = () => {
  const kept = { ...state };
  const { textContent } = element("status");
  const before = { original, truth, strokes, tool };
  const pages = [];
  CHAPTERS.slice(0, -1).forEach((chapter, index) => {
    openChapter(index);
    if (chapter.id === "learning") {
      state.moment = LAST; // on paper nothing can be played
    }
    update();
    writeAnswer(chapter);
    pages.push(copyChapter(articleOf(chapter)));
  });
  element("print").replaceChildren(...pages, writeAnswers());
  openChapter(kept.chapter);
  setImage(before.original, before.truth, kept.image);
  strokes = before.strokes;
  Object.assign(state, kept);
  chooseTool(before.tool);
  element("status").textContent = textContent;
  update();
};

window.onafterprint = () => element("print").replaceChildren();

/** Return a copy of a chapter, with what is drawn on its canvases. */
function copyChapter(article) {
  const copy = article.cloneNode(true);
  const canvases = copy.querySelectorAll("canvas");
  article.querySelectorAll("canvas").forEach((canvas, k) => {
    if (canvas.width && canvas.height) {
      canvases[k].getContext("2d").drawImage(canvas, 0, 0);
    }
  });
  const inputs = copy.querySelectorAll("#kernel input");
  article.querySelectorAll("#kernel input").forEach((input, k) => {
    const cell = document.createElement("i");
    cell.textContent = input.value;
    cell.style.cssText = input.style.cssText;
    inputs[k].replaceWith(cell);
  });
  return copy;
}

function writeAnswers() {
  const page = document.createElement("article");
  page.className = "printed-answers";
  const items = CHAPTERS.slice(0, -1).map((chapter, index) => {
    const answer = articleOf(chapter).querySelector("details p").innerHTML;
    return `<dt>${index + 1}. ${chapter.question}</dt>
      <dd>${answer} ${describePrinted(chapter)}<br><i>${chapter.ask}</i> ${chapter.reply}</dd>`;
  });
  const minutes = CHAPTERS.reduce((sum, chapter) => sum + (chapter.minutes ?? 0), 0);
  page.innerHTML = `<h2>Answers</h2><dl>${items.join("")}</dl>
    <p class="teacher">For the teacher: ${minutes} minutes for all chapters; the last two
      are good homework.</p>`;
  return page;
}

/** Say what is on the picture that is guessed. */
function describePrinted({ id }) {
  if (id !== "mistakes") {
    return "";
  }
  const [first] = GUESSED;
  const answer = DATA.networks.TinyVGG.predictions[first];
  return `The picture is labelled ${nameOf(labels[first])}; TinyVGG answers ${nameOf(answer)}.`;
}
