"use strict";
// How a reply is drawn, and what happened at its interventions. The page's data is told of in reply_data.py; `page`,
// `ids`, `texts`, `familyOf`, `filters` and `state` are reply_page.js's, which follows in the same script.

const CJ = ["cj", "kana", "hans", "hant", "hanst", "hansj", "hantj", "han"];
const STRENGTH = { symbols: 0, lowres: 1, latin: 2 }; // of a family among the tokens that make up a text; CJ has 4, others 3
const N_LINES = 4;

// ---- the data ----

// the text of a reply, put together when it is first asked for
function textIn(reply) {
  reply.text ??= reply.tokens.map((token) => texts[token]).join("");
  return reply.text;
}

function eventOf([position, last, predicted, allowed, banned, z, removed, left, chosenText]) {
  return { position, last, predicted, allowed, banned, z, removed: listed(removed), left: listed(left), chosenText };
}

function listed(flat) {
  const tokens = [];
  for (let i = 0; i < flat.length; i += 2) {
    tokens.push({ text: texts[flat[i]], family: familyOf[flat[i]], p: flat[i + 1] / 1e4 });
  }
  return tokens;
}

// where two replies part, undefined if nowhere; the end of one counts as a token
function firstDifference(a, b) {
  const n = Math.min(a.tokens.length, b.tokens.length);
  for (let i = 0; i < n; i++) if (ids[a.tokens[i]] !== ids[b.tokens[i]]) return i;
  return a.tokens.length === b.tokens.length ? undefined : n;
}

// The family of a text that the tokens from `start` to `end` make up: the strongest. All but the first of a character's
// bytes count as symbols, and that first one can be in a token that completed another character too.
function familyMade(tokens, start, end) {
  const strength = (family) => STRENGTH[page.families[family]] ?? (CJ.includes(page.families[family]) ? 4 : 3);
  const strongest = (a, b) => (strength(b) > strength(a) ? b : a);
  const family = tokens.slice(start, end + 1).map((token) => familyOf[token]).reduce(strongest);
  const isBegunBefore = start > 0 && strength(family) === 0 && /^(?=\p{L})\P{ASCII}/u.test(texts[tokens[end]]);
  return isBegunBefore ? familyOf[tokens[start - 1]] : family;
}

// ---- words ----

function h(tag, attributes, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== undefined && value !== "") element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

function familyClass(family) {
  const name = page.families[family];
  return `f-${/^[a-z][a-z0-9-]*$/.test(name) ? name : family}`; // as in families.py
}

function languageName(code) {
  try {
    const name = new Intl.DisplayNames(["en"], { type: "language", fallback: "none" }).of(code);
    return name ? `${name} (${code})` : code;
  } catch {
    return code; // no code, but perhaps a name
  }
}

// a reply that begins with a word of the wrong script has the direction of its language all the same
function direction(text) {
  const isRight = /[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc\u{10800}-\u{10fff}\u{1e800}-\u{1efff}]/u;
  let right = 0;
  const letters = text.match(/\p{L}/gu) ?? [];
  for (const letter of letters) if (isRight.test(letter)) right++;
  return !letters.length ? "auto" : 2 * right > letters.length ? "rtl" : "ltr";
}

const SPACES = { " ": "␣", "\n": "⏎", "\r": "␍", "\t": "⇥" };
const UNSEEN = /(\\x[0-9a-f]{2}|[ \p{Cc}\p{Cf}\p{Zl}\p{Zp}])/u; // the first is how bytes of no character come

// a token on its own, with what cannot be seen
function visible(text) {
  const bdi = h("bdi", {});
  text.split(UNSEEN).forEach((part, i) => {
    const code = () => `U+${part.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}`;
    if (i % 2 === 0) bdi.append(part);
    else bdi.append(h("bdi", { class: "space" }, SPACES[part] ?? (part.startsWith("\\") ? part : code())));
  });
  if (!text) bdi.append(h("span", { class: "space" }, "nothing"));
  return bdi;
}

// nothing that is told of is impossible, though the data has only four digits of it
const percent = (p) => (p < 0.0005 ? "< 0.1 %" : `${(100 * p).toFixed(1)} %`);
const count = (n, noun) => `${n.toLocaleString("en")} ${noun}${n === 1 ? "" : "s"}`;
const MANY = 8; // families that are told of one by one

// the names of families, of many only those in `first`
function names(families, first = []) {
  const shown = families.length <= MANY ? families : families.filter((family) => first.includes(family));
  const told = shown.map((family) => page.families[family]);
  const rest = families.length - shown.length;
  if (rest) told.push(shown.length ? count(rest, "other") : `${rest} families`);
  return told.join(", ") || "nothing";
}

// The underlines of the families in some replies, see families.py: among those whose colours are alike to some readers,
// the most frequent one has none.
function linesIn(replies) {
  const scriptOf = (family) => (CJ.includes(page.families[family]) ? "cj" : page.families[family]);
  const counts = new Map();
  for (const { tokens } of replies) {
    for (const token of tokens) {
      const family = familyOf[token];
      const script = scriptOf(family);
      if (script !== "symbols") counts.set(script, [(counts.get(script)?.[0] ?? 0) + 1, page.bluish[family]]);
    }
  }
  const lines = new Map();
  for (const isBluish of [true, false]) {
    const alike = [...counts].filter(([, [, bluish]]) => bluish === isBluish).sort((a, b) => b[1][0] - a[1][0]);
    alike.forEach(([script], i) => lines.set(script, Math.min(i, N_LINES)));
  }
  return (family) => lines.get(scriptOf(family)) ?? 0;
}

// ---- one reply ----

function card(group, number) {
  const [id, prompt, language, subset, reference] = group.asked;
  const shown = state.shown.map((method) => group.replies.get(method)).filter(Boolean);
  const way = direction(reference || shown.map(textIn).join(""));
  const right = { dir: way, lang: /^[a-z]{2,3}(-|$)/i.test(language) ? language : "" };
  const asked = h("dl", { class: "asked" }, h("dt", {}, "prompt"), h("dd", { dir: direction(prompt), tabindex: prompt.length > 600 ? 0 : "" }, prompt));
  if (reference) asked.append(h("dt", {}, "reference"), h("dd", { ...right, dir: direction(reference) }, reference));
  const header = h("header", {}, h("h3", { id: `card-${number}` }, h("bdi", {}, id)));
  for (const text of [language && languageName(language), subset, group.seed && `seed ${group.seed}`]) {
    if (text) header.append(h("span", {}, h("bdi", {}, text)));
  }
  const base = shown[0];
  const differences = shown.map((reply) => (reply === base ? undefined : firstDifference(base, reply)));
  const columns = h("div", { class: "columns" });
  const line = linesIn(shown);
  shown.forEach((reply, i) => {
    const marks = i === 0 ? differences : [differences[i]];
    columns.append(column(reply, new Set(marks), right, line, i === 0 ? "" : sameness(differences[i], base)));
  });
  const parts = filters ? [header, asked, columns] : [asked, columns];
  return h("article", { class: "card", "aria-labelledby": filters ? `card-${number}` : "replies-heading" }, ...parts);
}

function sameness(difference, base) {
  const other = page.methods[base.method];
  return difference === undefined ? `same as ${other}` : `differs from ${other} at token ${difference + 1}`;
}

function column(reply, marks, right, line, note) {
  const header = h("header", {}, h("h4", {}, h("bdi", {}, page.methods[reply.method])), h("span", {}, count(reply.tokens.length, "token")));
  if (reply.events.length) header.append(h("span", {}, count(reply.events.length, "intervention")));
  if (reply.finish !== "stop") header.append(h("span", {}, reply.finish === "length" ? "cut off" : reply.finish));
  for (const kind of reply.wrong) {
    header.append(h("span", { class: "wrong" }, `unwanted ${page.kinds[kind]}`));
  }
  if (reply.thought.size) header.append(h("span", { class: "thought" }, `${count(reply.thought.size, "token")} of thinking`));
  if (note) header.append(h("span", {}, h("bdi", {}, note)));
  const section = h("section", { class: "reply", "aria-label": page.methods[reply.method] }, header, textOf(reply, marks, right, line));
  section.reply = reply;
  return section;
}

function textOf(reply, marks, right, line) {
  const block = h("div", { class: "text", ...right });
  const eventsAt = new Map();
  reply.events.forEach((event, k) => {
    const at = Math.min(event[0], reply.tokens.length);
    eventsAt.set(at, [...(eventsAt.get(at) ?? []), k]);
  });
  let events = [];
  let isFirst = false;
  let start = 0; // the first token of the text that is completed next
  for (let i = 0; i <= reply.tokens.length; i++) {
    events.push(...(eventsAt.get(i) ?? []));
    isFirst ||= marks.has(i);
    const isEnd = i === reply.tokens.length;
    const text = isEnd ? (reply.finish === "stop" ? " ∎" : " …") : texts[reply.tokens[i]];
    if (text === "") continue; // bytes of a character that a later token completes: what happened is told there
    const span = isEnd ? h("bdi", { class: "t f-symbols end" }, text) : token(reply, start, i, line, events.length > 0);
    if (isEnd) span.title = reply.finish === "stop" ? "end of the reply" : "the reply goes on";
    if (isFirst) span.classList.add("first");
    if (reply.bad.has(i)) span.classList.add("bad");
    if (reply.thought.has(i)) span.classList.add("thought");
    if (events.length) {
      span.classList.add("event");
      span.dataset.events = events.join(" ");
      for (const [name, value] of [["role", "button"], ["tabindex", "0"], ["aria-expanded", "false"]]) span.setAttribute(name, value);
    }
    block.append(span);
    events = [];
    isFirst = false;
    start = i + 1;
  }
  return block;
}

// what the tokens from `start` to `end` make up
function token({ tokens }, start, end, line, showSpaces) {
  const text = texts[tokens[end]];
  const shown = showSpaces && /^\s+$/.test(text) ? text.replace(/[ \n\t]/g, (c) => (c === "\n" ? "⏎\n" : SPACES[c])) : text;
  const family = familyMade(tokens, start, end);
  const span = h("span", { class: `t ${familyClass(family)}` }, shown);
  if (line(family)) span.classList.add(`l-${line(family)}`);
  span.made = { tokens: tokens.slice(start, end + 1), start };
  return span;
}

// ---- one intervention ----

// shows under the replies of a card what happened at a token, or puts it away
function toggle(span) {
  const isOpen = span.getAttribute("aria-expanded") === "true";
  closeDetail(span.closest(".card"));
  if (!isOpen) openDetail(span.closest(".reply"), Number(span.dataset.events.split(" ")[0]));
}

function openDetail(section, k) {
  const card = section.closest(".card");
  closeDetail(card);
  const span = [...section.querySelectorAll(".event")].find((one) => one.dataset.events.split(" ").includes(String(k)));
  span.setAttribute("aria-expanded", "true");
  const panel = detail(section.reply, k);
  panel.step = (by) => openDetail(section, k + by).querySelector(`[data-go="${by}"]:enabled, [data-go="0"]`).focus();
  card.append(panel);
  return panel;
}

function closeDetail(card) {
  card.querySelector(".detail")?.remove();
  const span = card.querySelector('[aria-expanded="true"]');
  span?.setAttribute("aria-expanded", "false");
  return span;
}

function detail(reply, k) {
  const { events, tokens } = reply;
  const event = eventOf(events[k]);
  const family = event.position < tokens.length ? familyOf[tokens[event.position]] : undefined;
  const go = (by, text, label) =>
    h("button", { type: "button", "data-go": String(by), "aria-label": label, disabled: !events[k + by] }, text);
  const buttons = h("span", { class: "go" }, go(-1, "‹", "Previous intervention"), go(1, "›", "Next intervention"), go(0, "✕", "Close"));
  const title = h("h5", {}, h("bdi", {}, page.methods[reply.method]), `: intervention ${k + 1} of ${events.length}, at token ${event.position + 1}`);
  const lists = h("div", { class: "lists" }, bannedList(event), gateList(event), leftList(event, family));
  return h("div", { class: "detail", role: "group", "aria-label": title.textContent }, h("header", {}, title, buttons), story(event), lists);
}

function story(event) {
  const wanted = event.removed[0];
  const sentence = h("p", {}, event.last < 0 ? "Before the first letter of the reply" : `After ${page.families[event.last]} text`);
  if (wanted) sentence.append(", the model gave ", visible(wanted.text), ` ${percent(wanted.p)}`);
  sentence.append(`; the gate allowed ${names(event.allowed)} and banned ${names(event.banned, event.removed.map((token) => token.family))}. `, h("b", {}, visible(event.chosenText)), " was chosen.");
  return sentence;
}

function row(head, family, p, note, kind) {
  const bar = h("td", { class: "share" }, h("i", { style: `--share: ${(100 * p).toFixed(2)}%` }));
  return h("tr", { class: `${familyClass(family)} ${kind}` }, h("td", {}, head), bar, h("td", { class: "number" }, percent(p)), h("td", {}, note));
}

function list(caption, rows) {
  return h("table", {}, h("caption", {}, caption), h("tbody", {}, ...rows));
}

function bannedList({ removed }) {
  const mass = removed.reduce((sum, token) => sum + token.p, 0);
  const rows = removed.map((token) => row(visible(token.text), token.family, token.p, "", "banned"));
  const table = list(`wanted and banned: ${removed.length ? percent(mass) : "nothing"}`, rows);
  table.caption.title = "the probability that was removed: the sum of these tokens' just before the intervention";
  return table;
}

// what the gate made of the families; of many those that matter here, and the most probable ones
function gateList(event) {
  const chances = event.z.map((z, family) => ({ family, p: 1 / (1 + Math.exp(-z)) }));
  const matters = new Set([...event.predicted, event.last, ...event.removed.map((token) => token.family)]);
  const ranked = [...chances].sort((a, b) => matters.has(b.family) - matters.has(a.family) || b.p - a.p);
  const shown = new Set(ranked.slice(0, chances.length > MANY + 1 ? MANY : undefined).map(({ family }) => family));
  const rows = chances.filter(({ family }) => shown.has(family)).map(({ family, p }) => {
    const why = event.banned.includes(family) ? "banned" : event.predicted.includes(family) ? "expected" : family === event.last ? "as before" : "";
    return row(page.families[family], family, p, why, "");
  });
  const others = chances.filter(({ family }) => !shown.has(family));
  if (others.length) {
    const most = percent(Math.max(...others.map(({ p }) => p)));
    rows.push(h("tr", { class: "others" }, h("td", { colspan: 4 }, `${others.length} others, each at most ${most}`)));
  }
  return list(rows.length ? "what the gate expects next" : "the gate did not run", rows);
}

function leftList(event, family) {
  const rows = event.left.map((token) => {
    const isChosen = token.text === event.chosenText;
    return row(visible(token.text), token.family, token.p, isChosen ? "chosen" : "", isChosen ? "chosen" : "");
  });
  if (!event.left.some((token) => token.text === event.chosenText)) {
    const cls = family === undefined ? "f-symbols" : familyClass(family);
    rows.push(h("tr", { class: `${cls} chosen` }, h("td", {}, visible(event.chosenText)), h("td", {}), h("td", {}), h("td", {}, "chosen")));
  }
  return list("left to choose from", rows);
}
