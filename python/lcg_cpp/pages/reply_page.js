// Which replies are shown, and what the reader does. How one is drawn is in reply_card.js, before this in the same script.

const PER_PAGE = 20;
const MEANINGS = {
  cj: "Chinese and Japanese",
  latin: "Latin letters",
  symbols: "no letters (digits, punctuation, vowel signs, …)",
  lowres: "every other script (Arabic, Hangul, Cyrillic, …)",
  kana: "only Japanese",
  hans: "only simplified Chinese",
  hant: "only traditional Chinese",
  hanst: "both Chinese, not Japanese",
  hansj: "simplified Chinese and Japanese",
  hantj: "traditional Chinese and Japanese",
  han: "all Chinese and Japanese",
  other: "scripts with few tokens",
};
const results = document.getElementById("replies");
const filters = document.getElementById("filters"); // not there on the page of a single reply
const state = { shown: [], language: "", subset: "", show: "", text: "", first: 0 };
let page, ids, texts, familyOf; // the data, see reply_data.py
let groups = []; // the replies to one prompt with one seed, by method
let chosen = []; // those of them that the filters leave

// ---- the data ----

async function unpack(base64) {
  const binary = atob(base64);
  const bytes = new Uint8Array(binary.length);
  for (let i = 0; i < bytes.length; i++) bytes[i] = binary.charCodeAt(i);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Response(stream).json();
}

function grouped() {
  const found = new Map();
  for (const [prompt, method, seed, finish, seconds, nPrompt, tokens, events, wrong, bad, thought] of page.replies) {
    const asked = page.prompts[prompt];
    const key = `${seed} ${asked[0]}`;
    if (!found.has(key)) found.set(key, { asked, seed, replies: new Map() });
    found.get(key).replies.set(method, { method, finish, seconds, nPrompt, tokens, wrong, events, bad: new Set(bad), thought: new Set(thought) });
  }
  return [...found.values()];
}

// ---- which replies ----

function matches(group) {
  const [, prompt, language, subset] = group.asked;
  if (state.language && language !== state.language) return false;
  if (state.subset && subset !== state.subset) return false;
  const shown = state.shown.map((method) => group.replies.get(method)).filter(Boolean);
  if (!shown.length) return false;
  if (state.text) {
    const wanted = state.text.toLowerCase();
    if (![prompt, ...shown.map(textIn)].some((text) => text.toLowerCase().includes(wanted))) return false;
  }
  if (state.show === "events") return shown.some((reply) => reply.events.length);
  if (state.show === "differs") return shown.some((reply) => firstDifference(shown[0], reply) !== undefined);
  if (state.show === "confused") return shown.some((reply) => reply.wrong.length);
  if (state.show === "cell") {
    const wrong = group.replies.get(state.cell.method)?.wrong ?? [];
    return state.cell.kind < 0 ? wrong.length > 0 : wrong.includes(state.cell.kind); // none is any
  }
  if (state.show === "cut") return shown.some((reply) => reply.finish === "length");
  return true;
}

function draw() {
  chosen = groups.filter(matches);
  state.first = Math.min(state.first, Math.max(0, Math.ceil(chosen.length / PER_PAGE) - 1) * PER_PAGE);
  const some = chosen.slice(state.first, state.first + PER_PAGE);
  results.replaceChildren(...some.map((group, i) => card(group, state.first + i)));
  if (!some.length) results.append(h("p", {}, "No reply matches."));
  if (!filters) return;
  const prompts = count(new Set(chosen.map((group) => group.asked[0])).size, "prompt");
  const all = page.replies.some((reply) => reply[2]) ? `${chosen.length.toLocaleString("en")} (${prompts})` : prompts;
  document.getElementById("count").value = some.length ? `${state.first + 1}–${state.first + some.length} of ${all}` : "none";
  for (const button of document.querySelectorAll("[data-step]")) {
    const first = state.first + Number(button.dataset.step) * PER_PAGE;
    button.disabled = first < 0 || first >= chosen.length;
  }
}

function readFilters() {
  const form = new FormData(filters);
  state.shown = form.getAll("method").map(Number);
  for (const name of ["language", "subset", "show", "text"]) state[name] = form.get(name);
  state.first = 0;
  draw();
}

function fillFilters() {
  const plain = Math.max(0, page.methods.indexOf("none"));
  const gated = page.methods.includes("lcg") ? page.methods.indexOf("lcg") : page.methods.length - 1;
  page.methods.forEach((method, i) => {
    const box = h("input", { type: "checkbox", name: "method", value: String(i), checked: i === plain || i === gated });
    document.getElementById("methods").append(h("label", {}, box, " ", h("bdi", {}, method)));
  });
  const fill = (name, at, label) => {
    const values = [...new Set(groups.map((group) => group.asked[at]))].filter(Boolean).sort();
    for (const value of values) filters.elements[name].append(h("option", { value }, label(value)));
    filters.elements[name].closest("label").hidden = values.length < 2;
  };
  fill("language", 2, languageName);
  fill("subset", 3, (value) => value);
  for (const cell of document.querySelectorAll("[data-language-name]")) cell.textContent = languageName(cell.dataset.languageName);
}

// the replies that a cell of the table of unwanted scripts counts
function showCell(language, method, kind) {
  state.cell = { method: page.methods.indexOf(method), kind: page.kinds.indexOf(kind) };
  for (const box of filters.querySelectorAll('[name="method"]')) {
    box.checked = ["none", method].includes(page.methods[box.value]);
  }
  filters.elements.show.querySelector('[value="cell"]')?.remove();
  filters.elements.show.append(h("option", { value: "cell" }, `with unwanted ${kind} by ${method}`));
  const wanted = { language, subset: "", text: "", show: "cell" };
  for (const [name, value] of Object.entries(wanted)) filters.elements[name].value = value;
  readFilters();
  document.getElementById("replies-heading").focus();
}

function fillLegend() {
  const legend = document.getElementById("legend");
  legend.append("tokens of");
  const present = new Set(familyOf);
  page.families.forEach((name, family) => {
    if (!present.has(family)) return;
    const swatch = h("span", { class: `swatch t ${familyClass(family)}` }, name);
    legend.append(h("span", {}, swatch, MEANINGS[name] ? `: ${MEANINGS[name]}` : ""));
  });
  legend.append(h("span", {}, h("span", { class: "swatch t f-symbols event" }, "here the gate intervened"), " (choose it to see why)"));
  if (page.kinds.length) legend.append(h("span", { class: "swatch t f-symbols bad" }, "unwanted letters"));
  if (filters) legend.append(h("span", { class: "swatch t f-symbols first" }, "first difference"));
}

// ---- what the reader does ----

function listen() {
  results.addEventListener("click", (click) => {
    const span = click.target.closest(".event");
    if (span) return toggle(span);
    const button = click.target.closest("[data-go]");
    if (!button) return undefined;
    const by = Number(button.dataset.go);
    return by ? button.closest(".detail").step(by) : closeDetail(button.closest(".card")).focus();
  });
  results.addEventListener("keydown", (key) => {
    const span = key.target.closest(".event");
    if (span && (key.key === "Enter" || key.key === " ")) {
      key.preventDefault();
      toggle(span);
    } else if (key.key === "Escape") closeDetail(key.target.closest(".card"))?.focus();
  });
  results.addEventListener("mouseover", (over) => {
    const span = over.target.closest(".t");
    if (!span?.made || span.title) return;
    const { tokens, start } = span.made;
    const told = tokens.map((token, i) => `token ${start + i + 1}: ${page.families[familyOf[token]]}, id ${ids[token]}`);
    span.title = told.join("\n");
  });
  filters?.addEventListener("input", readFilters);
  filters?.addEventListener("submit", (submit) => submit.preventDefault());
  document.addEventListener("click", (click) => {
    const { step: by, method, language, kind } = click.target.closest("button")?.dataset ?? {};
    if (by) {
      state.first += Number(by) * PER_PAGE;
      draw();
      document.getElementById("replies-heading").scrollIntoView();
    } else if (method) showCell(language, method, kind);
  });
}

async function main() {
  const data = document.getElementById("data");
  try {
    // nothing is waited for where nothing is packed, so that whoever sees the page sees the replies
    page = data.type === "application/json" ? JSON.parse(data.textContent) : await unpack(data.textContent);
  } catch (error) {
    results.replaceChildren(h("p", {}, `This browser cannot unpack the replies (${error}); use one from 2023 or later.`));
    return;
  }
  [ids, texts, familyOf] = page.pieces;
  groups = grouped();
  listen();
  fillLegend();
  if (filters) {
    fillFilters();
    readFilters();
  } else {
    state.shown = [0];
    draw();
    const first = results.querySelector(".event");
    if (first) toggle(first);
  }
  document.documentElement.dataset.ready = String(Math.round(performance.now()));
}

main();
