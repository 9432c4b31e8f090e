// Completions, turn by turn. All of them are in the page; filters choose among them.
const PAGE = 30, OPEN = 2, COLOURS = 6;
const LIKELY = [0.9, 0.5, 0.2, 0.05, 0.01];
const data = JSON.parse(at("data").textContent);
let wanted = [], shown = 0;

// --- filters ------------------------------------------------------------------------------------

const purpose = (r) => r.purpose === "eval" ? `evaluation ${r.evaluation}` : "training";
const policyTurns = (r) => r.turns.filter((turn) => turn.sampled).length;
const everything = (r) => `${r.prompt}\n${r.completion}`.toLowerCase();

function choices(id, name, values) {
  const found = [...new Set(values)];
  at(id).append(option("", "any"), ...found.map((value) => option(value, name(value))));
  at(id).parentElement.hidden = found.length < 2;
}
function option(value, name) {
  const element = make("option", name);
  element.value = value;
  return element;
}
function filtered() {
  const value = (id) => at(id).value, least = (id) => value(id) === "" ? -Infinity : Number(value(id));
  const words = value("text").trim().toLowerCase();
  const last = value("last") === "" ? Infinity : Number(value("last"));
  const steps = value("first") !== "" || value("last") !== "";
  return data.rows.filter((r) =>
    (!words || everything(r).includes(words))
    && (!value("purpose") || purpose(r) === value("purpose"))
    && (!value("set") || (r.set || "–") === value("set"))
    && (!value("verdict") || r.correct === (value("verdict") === "right"))
    && (!value("reason") || (r.reason || "itself") === value("reason"))
    && (!steps || (known(r.step) && r.step >= least("first") && r.step <= last))
    && (value("lag") === "" || (known(r.lag) && r.lag >= least("lag")))
    && policyTurns(r) >= least("turns"));
}
function choose() {
  wanted = filtered();
  shown = 0;
  at("list").replaceChildren();
  text(at("count"), `${wanted.length} of ${data.rows.length} completions`);
  more();
}
function more() {
  at("list").append(...wanted.slice(shown, shown + PAGE).map((r, i) => rollout(r, shown + i < OPEN)));
  shown = Math.min(wanted.length, shown + PAGE);
  at("more").hidden = shown === wanted.length;
}

// --- a completion -------------------------------------------------------------------------------

function rollout(r, open) {
  const card = make("details", "", "card rollout"), summary = make("summary"), turns = policyTurns(r);
  const where = r.purpose === "eval" ? purpose(r) : known(r.step) ? `step ${r.step}` : "not trained yet";
  const versions = r.oldest === r.newest ? `version ${r.newest}` : `versions ${r.oldest}–${r.newest}`;
  summary.append(
    make("span", r.correct ? "✓ right" : "✗ wrong", `mark ${r.correct ? "right" : "wrong"}`),
    make("span", `reward ${number(r.reward)}`), make("span", where), make("span", versions),
    make("span", turns === 1 ? "1 turn" : `${turns} turns`));
  if (r.reason) summary.append(make("span", `ended by ${r.reason}`, "wrong"));
  summary.append(make("span", r.turns[r.turns.length - 1].text.trim().slice(-200), "preview"));
  card.append(summary);
  // Made when it is opened: a long completion has thousands of tokens.
  card.addEventListener("toggle", () => {
    if (card.open && card.children.length === 1) card.append(inside(r));
  });
  card.open = open;
  return card;
}
function inside(r) {
  const body = make("div", "", "inside");
  const parts = Object.entries(r.parts).map(([name, value]) => `${name} ${number(value)}`);
  const answers = Object.entries(r.answers).filter(([, answer]) => answer)
    .map(([name, answer]) => `answer (${name}): ${answer}`);
  const facts = [
    `group ${r.lease}, row ${r.row}`, r.set && `set ${r.set}`, `by ${r.generator}`,
    known(r.lag) && `lag ${r.lag}`, `${r.tokens} sampled tokens, mean log p ${number(r.mean_logprob)}`,
    !r.reason && (r.finished ? "ended by itself" : "cut off"),
  ];
  body.append(make("p", facts.filter(Boolean).join(" · "), "note"));
  if (parts.length) body.append(make("p", `parts of the reward: ${parts.join(", ")}`, "note"));
  answers.forEach((answer) => body.append(make("p", answer, "note")));
  body.append(block("prompt", "prompt", make("pre", r.prompt)), ...r.turns.map(turn));
  return body;
}
function turn(part) {
  const words = make("pre");
  if (part.tokens.length) words.append(...part.tokens.map(token));
  else words.textContent = part.text || "(nothing)";
  const card = block(part.sampled ? "policy" : "environment", who(part), words);
  part.calls.forEach((call) => card.append(make("p", `calls ${call}`, "call")));
  return card;
}
function who(part) {
  if (!part.sampled) return "environment";
  const versions = part.tokens.map(([, , , version]) => version).filter(known);
  if (!versions.length) return "policy";
  const low = versions.reduce((a, b) => Math.min(a, b)), high = versions.reduce((a, b) => Math.max(a, b));
  return low === high ? `policy, version ${low}` : `policy, versions ${low}–${high}`;
}
function block(kind, name, words) {
  const card = make("div", "", `turn ${kind}`);
  card.append(make("div", name, "who"), words);
  return card;
}
function token([words, id, logprob, version]) {
  if (!known(version)) return make("span", words);
  const p = Math.exp(logprob), level = LIKELY.findIndex((least) => p >= least);
  const span = make("span", words || "∎", `p${level < 0 ? 5 : level} v${version % COLOURS}${words ? "" : " end"}`);
  span.title = `log p ${logprob.toFixed(3)}, p ${percent(p)}, version ${version}, token ${id}`;
  return span;
}

// --- the page -----------------------------------------------------------------------------------

document.title = `Rollouts of ${data.run} – asyncds`;
text(at("run"), data.run);
text(at("note"), data.note);
choices("purpose", (name) => name, data.rows.map(purpose));
choices("set", (name) => name, data.rows.map((r) => r.set || "–"));
choices("reason", (name) => name, data.rows.map((r) => r.reason || "itself"));
at("turns").parentElement.hidden = !data.rows.some((r) => policyTurns(r) > 1);
const all = [...new Set(data.rows.flatMap((r) => r.turns.flatMap((t) => t.tokens.map((k) => k[3]))))];
const versions = all.filter(known).sort((a, b) => a - b);
at("versions").append(...versions.slice(-3 * COLOURS).flatMap((v) => [make("i", v, `v${v % COLOURS}`), " "]));
at("filters").addEventListener("input", choose);
at("filters").addEventListener("submit", (event) => event.preventDefault());
at("more").addEventListener("click", more);
at("colours").addEventListener("change", (event) => { document.body.className = `by-${event.target.value}`; });
choose();
