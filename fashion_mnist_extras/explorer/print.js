// Printing: all chapters, one on a page, and the answers on a page of their own.

window.onbeforeprint = () => {
  const before = { original, truth, strokes, tool, state: { ...state } };
  const said = element("status").textContent;
  const focused = document.activeElement;
  const scrolled = scrollY;
  views.set(state.chapter, address());
  const pages = CHAPTERS.slice(0, -1).map((chapter, index) => drawForPrint(chapter, index));
  element("print").replaceChildren(...pages, writeAnswers());
  openChapter(before.state.chapter);
  setImage(before.original, before.truth, before.state.image);
  strokes = before.strokes;
  Object.assign(state, before.state);
  chooseTool(before.tool);
  element("status").textContent = said;
  update();
  focused.focus({ preventScroll: true });
  scrollTo(0, scrolled);
};

/** Draw a chapter as it was left, and return a copy of it. */
function drawForPrint(chapter, index) {
  const isNew = !views.has(index);
  readAddress(recallView(index));
  if (chapter.id === "learning" && isNew) {
    state.moment = LAST; // on paper nothing can be played
    update();
  }
  writeAnswer(chapter);
  return copyChapter(articleOf(chapter));
}

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
    const asked = `<i>${chapter.ask}</i> ${chapter.reply}`;
    return `<dt>${index + 1}. ${chapter.question}</dt>
      <dd>${answer} ${describePrinted(chapter, index)}<br>${asked}</dd>`;
  });
  const minutes = CHAPTERS.reduce((sum, chapter) => sum + (chapter.minutes ?? 0), 0);
  page.innerHTML = `<h2>Answers</h2>
    <p class="teacher">For the teacher: ${minutes} minutes for all chapters; the last two are good
      homework.</p>
    <dl>${items.join("")}</dl>`;
  return page;
}

/** Say what is on the picture that is guessed. */
function describePrinted({ id }, index) {
  if (id !== "mistakes") {
    return "";
  }
  const view = new URLSearchParams(recallView(index).slice(1));
  const image = Number(view.get("image") ?? GUESSED[0]);
  const answer = DATA.networks.TinyVGG.predictions[image];
  return `The picture is labelled ${nameOf(labels[image])}; TinyVGG answers ${nameOf(answer)}.`;
}
