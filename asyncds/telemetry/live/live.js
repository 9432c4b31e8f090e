// Asks for the status every two seconds, and for charts and rollouts when they may have changed;
// more often when the run is about to end, so as to see how it does.
// What comes from the run is only ever put into the page as text, but for the charts, whose texts
// the server escapes.
const EVERY = 2000, ENDING = 500, LONGEST = 30000;
const FINAL = ["finished", "interrupted", "failed"];
let revision = null, last = null, pace = null, heard = 0, failures = 0;

function duration(seconds) {
  if (!known(seconds)) return "–";
  const s = Math.round(seconds), two = (n) => String(n).padStart(2, "0");
  const hours = Math.floor(s / 3600), minutes = Math.floor(s / 60) % 60;
  return hours ? `${hours}:${two(minutes)}:${two(s % 60)}` : `${minutes}:${two(s % 60)}`;
}

function notice(words) {
  text(at("news"), words);
  at("news").hidden = !words;
}

// --- the status ---------------------------------------------------------------------------------

const HEALTH = { healthy: "good", suspect: "bad", dead: "bad" };
const STATE = { running: "good", finished: "good", failed: "bad", interrupted: "bad" };

function showStatus(s) {
  const evaluation = s.evaluation, learner = s.learner ?? {}, fleet = s.fleet ?? [];
  document.title = `${s.step}/${s.steps} ${s.name} – asyncds`;
  text(at("name"), s.name);
  text(at("state"), s.state);
  at("state").className = `badge ${STATE[s.state] ?? ""}`;
  const left = known(pace) && s.step < s.steps && !FINAL.includes(s.state)
    ? ` · about ${duration(pace * (s.steps - s.step))} to go` : "";
  text(at("progress"), `step ${s.step} of ${s.steps} · version ${s.version} · ${duration(s.elapsed)}${left}`);
  at("done").style.width = `${Math.min(100, 100 * s.step / s.steps)}%`;
  text(at("waits"), s.waiting_for);
  notice(s.message);
  const ks = Object.keys(s.pass ?? {}).filter((k) => known(s.pass[k])).sort((a, b) => a - b);
  const ends = [...new Set([ks[0], ks[ks.length - 1]])].filter(known);
  const before = (k) => known(s.base_pass?.[k]) ? `base ${percent(s.base_pass[k])}` : "";
  const tiles = [
    ["reward", fixed(s.reward, 3), known(s.correct) ? `${percent(s.correct)} correct` : ""],
    ...ends.map((k) => [`Pass@${k}`, percent(s.pass[k]), before(k)]),
    ["distinct", fixed(s.distinct_correct, 2), "per group"],
    ["lag", number(s.lag_mean), `most ${number(s.lag_max)} of ${number(s.max_lag)}`],
    ["generated", number(s.generated_tokens_per_second), "tokens/s now"],
    ["trained", number(s.trained_tokens_per_second), "tokens/s, mean"],
    ["learner waits", percent(learner.idle_fraction), "of the last step"],
  ];
  each(at("tiles"), tiles, tile, (card, values) =>
    values.forEach((value, i) => text(card.children[i], value)));
  table(at("fleet"), [
    ["learner", learner.phase, number(learner.version), "", "", "", "", "", silent(learner)],
    ...fleet.map((m) => [
      m.name, [m.health, HEALTH[m.health] ?? ""], m.version < 0 ? "–" : number(m.version),
      number(m.lag), number(m.leases), number(m.tokens_per_second), percent(m.kv_use),
      number(m.mismatch), silent(m),
    ]),
  ], ["", "", "version", "behind", "leases", "tokens/s", "KV cache", "mismatch", ""]);
  table(at("work"), [
    ["leased or waiting to be trained on", number(s.outstanding)],
    ["of these, delivered", number(s.buffered)],
    ["evaluating", evaluation
      ? `version ${evaluation.version}: ${evaluation.done} of ${evaluation.total}` : "no"],
    ["last weight sync", fixed(s.sync_seconds, 2, " s")],
    ["generation paused for it", fixed(s.pause_seconds, 2, " s")],
  ]);
  const heldOut = s.held_out ?? [];
  at("heldout").hidden = heldOut.length === 0;
  table(at("sets"), heldOut.map((set) => [
    set.name || "all",
    `${set.n_problems} problems${set.n_failed ? `, ${set.n_failed} left out` : ""}`,
    ...ends.map((k) => `Pass@${k} ${percent(set.pass[k])}`
      + (known(set.base_pass[k]) ? ` (${percent(set.base_pass[k])})` : "")),
  ]));
  const dropped = Object.entries(s.dropped ?? {}).sort((a, b) => b[1] - a[1]);
  table(at("dropped"), dropped.length
    ? dropped.map(([why, n]) => [why.replaceAll("_", " "), number(n)]) : [["none", ""]]);
}
function tile() {
  const card = make("div", "", "card");
  card.append(make("span", "", "soft"), make("strong"), make("span", "", "note"));
  return card;
}
const silent = (process) =>
  process.last_seen > 5 ? [`silent for ${process.last_seen.toFixed(0)} s`, "bad"] : "";

// --- charts and rollouts ------------------------------------------------------------------------

function showDetails(details) {
  pace = details.seconds_per_step;
  const parts = Object.entries(details.versions).filter(([, version]) => version)
    .map(([name, version]) => `${name === "version" ? "asyncds" : name} ${version}`);
  text(at("machine"), `The coordinator's process: ${[...parts, details.hardware].join(", ")}`);
  text(at("config"), details.config);
  at("nocharts").hidden = details.charts.length > 0;
  at("norollouts").hidden = details.rollouts.length > 0;
  each(at("charts"), details.charts, chartCard, (card, chart) => {
    const [title, note, legend, picture] = card.children;
    text(title, chart.title);
    text(note, chart.note);
    each(legend, chart.legend, entry, (span, [color, name]) => {
      span.firstElementChild.style.background = `var(--c${Number(color)})`;
      text(span.lastElementChild, name);
    });
    if (card.dataset.svg !== chart.svg) {
      picture.innerHTML = chart.svg;
      card.dataset.svg = chart.svg;
    }
  });
  each(at("rollouts"), details.rollouts, problem, (card, r) => {
    const [prompt, note, list, rest] = card.children;
    text(prompt, r.prompt);
    const different = r.distinct === null ? "" : `, ${r.distinct} different`;
    text(note, `group ${r.lease}, version ${r.version}: ${r.right} of ${r.n} right${different}`);
    each(list, r.texts, completion, (item, [count, correct, words]) => {
      item.className = correct ? "right" : "wrong";
      text(item.children[0], correct ? "✓" : "✗");
      text(item.children[1], `${count}×`);
      text(item.children[2], words || "(nothing)");
    });
    text(rest, r.rest ? `and ${r.rest} more` : "");
  });
}
function chartCard() {
  const card = make("div", "", "card");
  card.append(make("h3"), make("p", "", "note"), make("div", "", "legend"), make("div"));
  return card;
}
function entry() {
  const span = make("span");
  span.append(make("i"), make("span"));
  return span;
}
function problem() {
  const card = make("div", "", "card problem");
  card.append(make("pre"), make("p", "", "note"), make("ul", "", "completions"), make("p", "", "note"));
  return card;
}
function completion() {
  const item = make("li");
  item.append(make("span", "", "mark"), make("span", "", "count"), make("pre"));
  return item;
}

// --- asking -------------------------------------------------------------------------------------

async function ask(path) {
  const answer = await fetch(path, { cache: "no-store", signal: AbortSignal.timeout(10000) });
  if (!answer.ok) throw new Error(`${path}: ${answer.status}`);
  return answer.json();
}

function lost() {
  const ago = heard ? `, last heard of ${duration((Date.now() - heard) / 1000)} ago` : "";
  at("shown").className = "stale";
  if (!last || !FINAL.includes(last.state)) {
    text(at("state"), "no answer");
    at("state").className = "badge bad";
  }
  notice(last && FINAL.includes(last.state)
    ? `The run is ${last.state}${last.message ? ` (${last.message})` : ""}; its coordinator has ended. The report is in the run directory.`
    : `The coordinator does not answer${ago}: the run is over, or the coordinator died, or the way to it is broken. This page keeps asking.`);
}

async function turn() {
  let wait = EVERY;
  try {
    const status = await ask("status.json");
    if (!known(status.state)) throw new Error("not ready");
    last = status; heard = Date.now(); failures = 0;
    at("shown").className = "";
    showStatus(status);
    if (status.revision !== revision) {
      const details = await ask("details.json");
      showDetails(details);
      revision = details.revision;
    }
    if (status.step >= status.steps || FINAL.includes(status.state)) wait = ENDING;
  } catch (error) {
    lost();
    wait = Math.min(LONGEST, EVERY * 2 ** failures++);
  }
  setTimeout(turn, wait);
}
turn();
