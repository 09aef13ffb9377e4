// The page of evaluate view: a list of samples that draws only what is seen, and the chosen sample beside it.
// All text of others goes into the page as text (textContent), never as HTML.
"use strict";

(() => {
  const data = window.benchmarkData;
  const samples = data.samples;
  const two = data.runs.length === 2;
  const { nameOf, verdict, change, count, filters, orders, contains } = window.sampleFilters(data);
  const ROW_HEIGHT = 76; // as in style.css
  const byKey = new Map(samples.map((sample, index) => [sample.key, index]));
  const narrow = window.matchMedia("(max-width: 800px)");
  let shown = samples.map((_, index) => index); // samples that pass the filters, in the chosen order
  let chosen = -1; // a place in `shown`

  const at = (id) => document.getElementById(id);

  function make(tag, attributes = {}, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name === "class") element.className = value;
      else element.setAttribute(name, value);
    }
    element.append(...children);
    return element;
  }

  function mark(answer) {
    const kind = verdict(answer);
    const words = { right: "right", wrong: "wrong", none: "no answer", partly: "partly right" }[kind];
    const text = { right: "✓", wrong: "✗", none: "–" }[kind] || answer.score.toFixed(2);
    return make("span", { class: `mark ${kind}`, title: words, role: "img", "aria-label": words }, text);
  }

  // Filters and order

  function addSelect(id, label, options) {
    const select = make("select", { id, "aria-label": label });
    for (const [value, text] of options) select.append(make("option", { value }, text));
    select.addEventListener("change", apply);
    at("selects").append(select);
  }

  const wantedText = () => at("search").value.trim().toLowerCase();

  function apply() {
    const kept = chosen >= 0 ? shown[chosen] : -1;
    const active = filters.filter(({ id }) => at(id).value !== "");
    const text = wantedText();
    const [, order] = orders[at("sort").value];
    shown = [];
    samples.forEach((sample, index) => {
      if (text && !contains(sample, text)) return;
      if (active.every(({ id, passes }) => passes(sample, at(id).value))) shown.push(index);
    });
    if (order) {
      const values = new Map(shown.map((index) => [index, order(samples[index])]));
      shown.sort((a, b) => values.get(a) - values.get(b) || a - b);
    }
    for (const { id } of filters) at(id).classList.toggle("set", at(id).value !== "");
    const set = active.length + (order ? 1 : 0);
    at("more").textContent = set ? `Filters (${set})` : "Filters";
    showStatus(active.length > 0 || text !== "");
    at("list").scrollTop = 0;
    const place = shown.indexOf(kept);
    choose(place >= 0 ? place : shown.length && !narrow.matches ? 0 : -1);
  }

  function mean(place) {
    const answers = shown.map((index) => samples[index].answers[place]).filter(Boolean);
    const scores = answers.map((answer) => answer.score);
    return scores.length ? (100 * scores.reduce((a, b) => a + b, 0)) / scores.length : null;
  }

  function showStatus(filtered) {
    const values = data.runs.map((_, place) => mean(place));
    const means = values.map((value) => (value === null ? "–" : `${value.toFixed(1)} %`));
    // Not the figure in the head, which the benchmark may make of some rows, or otherwise than as their mean.
    const rows = filtered ? `${shown.length} of ${samples.length} samples` : `${samples.length} samples`;
    const whole = !filtered && data.runs.every((run) => run.rows <= samples.length);
    at("status").textContent = `${rows}, mean score of ${whole ? "all" : "these"} rows ${means.join(" | ")}`;
  }

  // The list: absolutely placed rows of one height; only those in sight exist.

  function drawRows() {
    const list = at("list");
    const rows = at("rows");
    rows.style.height = `${shown.length * ROW_HEIGHT}px`;
    const first = Math.max(0, Math.floor(list.scrollTop / ROW_HEIGHT) - 5);
    const last = Math.min(shown.length, Math.ceil((list.scrollTop + list.clientHeight) / ROW_HEIGHT) + 5);
    const found = [];
    for (let place = first; place < last; place += 1) found.push(drawRow(place));
    if (!shown.length) found.push(make("div", { class: "empty" }, "No sample passes these filters."));
    rows.replaceChildren(...found);
    if (chosen >= 0) list.setAttribute("aria-activedescendant", `row-${chosen}`);
    else list.removeAttribute("aria-activedescendant");
  }

  function drawRow(place) {
    const sample = samples[shown[place]];
    const thumb = sample.picture
      ? make("img", { class: "thumb", src: sample.picture, alt: "", loading: "lazy", decoding: "async" })
      : make("span", { class: "thumb" }, sample.missing ? "missing" : "text");
    const said = sample.answers.map((answer) => (answer ? clip(answer.text) || "(empty)" : "–")).join("  |  ");
    const row = make(
      "div",
      { class: "row", role: "option", id: `row-${place}`, "aria-selected": String(place === chosen) },
      thumb,
      make("div", { class: "words" }, make("div", {}, clip(questionOf(sample))), make("div", { class: "said" }, said)),
      make("div", { class: "marks" }, ...sample.answers.map(mark)),
    );
    row.style.top = `${place * ROW_HEIGHT}px`;
    row.addEventListener("click", () => choose(place, true));
    return row;
  }

  // Lines that end every prompt, as "Answer the question using a single word or phrase.", tell nothing in a list.
  const shared = sharedEnding();

  function sharedEnding() {
    let ending = samples.length > 1 ? samples[0].prompt.split("\n").slice(1) : [];
    for (const { prompt } of samples) {
      while (ending.length && !prompt.endsWith(`\n${ending.join("\n")}`)) ending = ending.slice(1);
    }
    return ending.length ? ending.join("\n").length + 1 : 0;
  }

  const questionOf = ({ prompt }) => prompt.slice(0, prompt.length - shared);

  const clip = (text) => text.slice(0, 200).replace(/\s+/g, " ").trim();

  function choose(place, open = false) {
    chosen = place;
    if (place >= 0) {
      const list = at("list");
      const top = place * ROW_HEIGHT;
      if (top < list.scrollTop) list.scrollTop = top;
      if (top + ROW_HEIGHT > list.scrollTop + list.clientHeight) list.scrollTop = top + ROW_HEIGHT - list.clientHeight;
      if (open || !narrow.matches) setAddress(samples[shown[place]].key);
      if (open) document.body.classList.add("reading");
    }
    drawRows();
    drawDetail();
  }

  function close() {
    document.body.classList.remove("reading");
    setAddress(null);
    drawRows(); // a list that was hidden has had no height
  }

  // The address names the sample, so that a link to one can be sent.

  function setAddress(key) {
    const hash = key === null ? "#" : `#${encodeURIComponent(key)}`;
    if (window.location.hash !== hash) window.history.replaceState(null, "", hash);
  }

  function goToAddress() {
    let key = "";
    try {
      key = decodeURIComponent(window.location.hash.slice(1));
    } catch {
      return; // not an address of this page
    }
    if (!byKey.has(key)) return;
    const index = byKey.get(key);
    if (!shown.includes(index)) {
      at("filters").reset();
      apply();
    }
    choose(shown.indexOf(index), true);
  }

  // One sample

  function section(title, ...children) {
    return make("section", {}, make("h2", {}, title), ...children);
  }

  function marked(text) {
    const wanted = wantedText();
    const parts = document.createDocumentFragment();
    let from = 0;
    const lower = text.toLowerCase();
    // Lower case of some letters is longer: then places would not agree.
    for (let to = lower.length === text.length && wanted ? lower.indexOf(wanted) : -1; to >= 0; ) {
      parts.append(text.slice(from, to), make("mark", {}, text.slice(to, to + wanted.length)));
      from = to + wanted.length;
      to = lower.indexOf(wanted, from);
    }
    parts.append(text.slice(from));
    return parts;
  }

  function withChoice(sample, letter) {
    const place = letter.length === 1 ? letter.charCodeAt(0) - 65 : -1;
    return place >= 0 && place < sample.choices.length ? `${letter}. ${sample.choices[place]}` : letter;
  }

  function drawDetail() {
    const detail = at("detail");
    if (chosen < 0) {
      detail.replaceChildren(make("p", { class: "empty" }, shown.length ? "Choose a sample." : ""));
      return;
    }
    const sample = samples[shown[chosen]];
    const targets = [...count(sample.targets.map(String))].map(([target, times]) =>
      make("span", { class: "chip" }, withChoice(sample, target) + (times > 1 ? ` ×${times}` : "")),
    );
    const answers = sample.answers.map((answer, place) => drawAnswer(sample, answer, place));
    detail.replaceChildren(
      drawPath(sample),
      make("section", {}, drawPicture(sample)),
      section("Prompt", make("p", { class: "text", id: "prompt" }, marked(sample.prompt))),
      section("Accepted", make("div", { class: "targets" }, ...targets)),
      section(two ? "Answers" : "Answer", make("div", { class: "answers" }, ...answers)),
      drawMetadata(sample),
      make("p", { class: "keys quiet" }, "Keys: j and k step, / searches, Enter enlarges the picture."),
    );
    detail.scrollTop = 0;
  }

  function drawPath(sample) {
    const back = make("button", { id: "back", type: "button" }, "← List");
    back.addEventListener("click", close);
    const link = make("a", { href: `#${encodeURIComponent(sample.key)}`, title: "Link to this sample" }, sample.key);
    const path = make("div", { class: "path" }, back, link);
    path.append(make("span", { class: "quiet" }, `${chosen + 1} of ${shown.length}`));
    if (sample.group) path.append(make("span", { class: "chip" }, sample.group));
    if (two) {
      const words = { absent: "not answered by both", same: "same score" };
      const found = change(sample);
      path.append(make("span", { class: "chip" }, words[found] || `${found} by ${nameOf(1)}`));
    }
    return path;
  }

  function drawPicture(sample) {
    if (sample.missing) return make("p", { class: "missing" }, `Picture missing: ${sample.missing}`);
    if (!sample.picture) return make("p", { class: "quiet" }, "No picture: a text-only question.");
    const image = make("img", { src: sample.picture, alt: `Picture of ${sample.key}` });
    image.addEventListener("load", () => markTiny(image));
    const button = make("button", { class: "picture", type: "button", title: "Enlarge" }, image);
    button.addEventListener("click", () => enlarge(sample));
    return button;
  }

  const markTiny = (image) => image.classList.toggle("tiny", Math.max(image.naturalWidth, image.naturalHeight) < 160);

  function drawAnswer(sample, answer, place) {
    const head = make("h3", {}, make("span", {}, nameOf(place)), mark(answer));
    if (!answer) {
      return make("div", { class: "answer" }, head, make("p", { class: "quiet" }, "No answer to this question."));
    }
    const facts = make("p", { class: "facts" });
    if (answer.asked !== undefined) facts.append(`asked “${answer.asked}” instead of the prompt; `);
    if (answer.parsed !== answer.text) facts.append(`understood as “${withChoice(sample, answer.parsed)}”; `);
    facts.append(`score ${+answer.score.toFixed(4)}`);
    for (const [name, value] of Object.entries(answer.extra)) {
      facts.append(`, ${name} ${typeof value === "number" ? +value.toFixed(4) : value}`);
    }
    return make("div", { class: "answer" }, head, make("div", { class: "text" }, marked(answer.text)), facts);
  }

  function drawMetadata(sample) {
    const entries = Object.entries(sample.metadata);
    if (sample.id !== null && String(sample.id) !== sample.key) entries.unshift(["question_id", sample.id]);
    if (!entries.length) return "";
    const chips = entries.map(([name, value]) => {
      const text = typeof value === "string" ? value : JSON.stringify(value);
      return make("span", { class: "chip" }, make("span", { class: "quiet" }, `${name} `), text);
    });
    return section("Details", make("div", { class: "targets" }, ...chips));
  }

  function enlarge(sample) {
    const image = at("enlarged").querySelector("img");
    image.src = sample.picture;
    image.alt = `Picture of ${sample.key}`;
    image.onload = () => markTiny(image);
    at("enlarged").showModal();
  }

  // The head

  function drawHead() {
    document.title = `${data.benchmark}: ${data.runs.map((run) => run.label).join(" | ")}`;
    at("title").textContent = data.benchmark;
    at("metric").textContent = data.metric;
    data.runs.forEach((run, place) => {
      const unit = run.maximum === 100 ? " %" : ` of ${run.maximum}`;
      const error = run.stderr === null ? "" : ` ± ${run.stderr.toFixed(2)}`;
      const counted = run.n === run.rows ? `n = ${run.n}` : `n = ${run.n} (there are ${run.rows} rows)`;
      const rest = make("small", {}, `${error}${unit}, ${counted}`);
      const figure = make("div", {}, make("b", {}, run.value.toFixed(2)), rest);
      const label = make("div", { class: "label" }, nameOf(place));
      at("runs").append(make("div", { class: "run", title: run.file }, label, figure));
    });
    if (data.notes.length) {
      const notes = at("notes");
      notes.hidden = false;
      const more = data.notes.length > 1 ? ` (and ${data.notes.length - 1} more)` : "";
      notes.querySelector("summary").textContent = data.notes[0] + more;
      notes.querySelector("ul").append(...data.notes.map((note) => make("li", {}, note)));
    }
  }

  // Keys: j and k step, / searches, Enter enlarges, Escape goes back.

  function step(by) {
    if (shown.length) choose(Math.min(shown.length - 1, Math.max(0, chosen + by)), true);
  }

  function onKey(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || at("enlarged").open) return;
    const typing = event.target.closest("input, select, textarea");
    if (event.key === "Escape") {
      if (typing) typing.blur();
      else if (narrow.matches) close();
      event.preventDefault(); // or a browser empties the search without a word of it
      return;
    }
    if (typing) return;
    const onList = !event.target.closest("button, a, summary");
    const page = Math.max(1, Math.floor(at("list").clientHeight / ROW_HEIGHT) - 1);
    const end = shown.length;
    const steps = { j: 1, k: -1, ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -end, End: end };
    const sample = chosen >= 0 ? samples[shown[chosen]] : null;
    if (event.key === "/") at("search").focus();
    else if (event.key in steps) step(steps[event.key]);
    else if (event.key === "Enter" && onList && sample && sample.picture) enlarge(sample);
    else return;
    event.preventDefault();
  }

  function start() {
    drawHead();
    for (const { id, label, options } of filters) addSelect(id, label, options);
    addSelect("sort", "Order", Object.entries(orders).map(([name, [text]]) => [name, text]));
    at("search").addEventListener("input", apply);
    at("filters").addEventListener("submit", (event) => event.preventDefault());
    at("more").addEventListener("click", () => {
      const open = at("selects").classList.toggle("open");
      at("more").setAttribute("aria-expanded", String(open));
    });
    at("list").addEventListener("scroll", () => window.requestAnimationFrame(drawRows));
    window.addEventListener("resize", drawRows);
    window.addEventListener("hashchange", goToAddress);
    document.addEventListener("keydown", onKey);
    at("enlarged").addEventListener("click", () => at("enlarged").close());
    const linked = window.location.hash; // apply() chooses the first sample and would write its address
    apply();
    if (linked) {
      window.history.replaceState(null, "", linked);
      goToAddress();
    }
  }

  start();
})();
