"use strict";
// Shows what is in #data: the overview of all cells, or one cell. Text from runs only ever becomes textContent.
(async () => {
  const WORDS = ["fail", "error", "timeout", "flaky", "todo", "no-assertions", "skip", "pass"];
  const LETTERS = ["F", "E", "T", "~", "o", "n", "s", "·"];
  const EXPECTED = 16, VIOLATION = 32, CUT = 64, LAB = 128;
  const STATES = { 128: ["L", "lab error"], 129: ["Q", "quarantined"], 130: ["–", "not run"] };
  const ROWS = 120, COLUMN = 23;

  const make = (tag, about = {}, ...children) => {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(about)) {
      if (value === undefined || value === null || value === false) continue;
      if (name === "text") element.textContent = value;
      else if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
      else element.setAttribute(name, value === true ? "" : value);
    }
    element.append(...children.filter((child) => child !== null && child !== undefined));
    return element;
  };
  const section = (title, ...children) => make("section", {}, make("h2", { text: title }), ...children);
  const main = document.getElementById("main");
  const head = document.getElementById("head");
  const say = (text) => {
    const wait = document.getElementById("wait");
    wait.textContent = text;
    wait.hidden = false;
  };

  const bytes = Uint8Array.from(atob(document.getElementById("data").textContent), (letter) => letter.charCodeAt(0));
  if (typeof DecompressionStream === "undefined") {
    say("This browser cannot unpack the page: it needs one of 2023 or newer.");
    return;
  }
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  const data = JSON.parse(await new Response(stream).text());

  // --- values: a byte as labkit keeps it, with CUT for a run that is incomplete; from LAB on what is no run
  const bad = (value) => value > 0 && value < LAB && ((((value - 1) & 15) < 3) || ((value - 1) & VIOLATION) !== 0);
  const look = (value) => {
    if (!value) return ["", "v-none", "not run"];
    if (value >= LAB) return [STATES[value][0], "v-lab", STATES[value][1]];
    const cut = value & CUT, code = (value & ~CUT) - 1;
    if (cut && code < 0) return ["…", "v-none cut", "incomplete, nothing arrived"];
    const word = WORDS[code & 15] || "?", violation = code & VIOLATION, expected = code & EXPECTED;
    const known = expected && (bad(code + 1));
    let letter = LETTERS[code & 15] || "?";
    if (violation && (code & 15) > 2) letter = "V";
    const says = [word, violation ? "a violation" : "", known ? "as the policy expects" : "", cut ? "run incomplete" : ""];
    const style = known ? "v-known" : letter === "V" ? "v-fail" : `v-${word}`;
    return [known ? letter.toLowerCase() : letter, style + (cut ? " cut" : ""), says.filter(Boolean).join(", ")];
  };
  const LEGEND = [
    ["F", "v-fail", "fail"], ["E", "v-error", "error"], ["T", "v-timeout", "timeout"],
    ["f", "v-known", "fails as the policy expects"], ["~", "v-flaky", "flaky"], ["s", "v-skip", "skip"],
    ["o", "v-todo", "todo"], ["n", "v-no-assertions", "no assertions"], ["·", "v-pass", "pass"],
  ];
  const legend = (more) => make("ul", { class: "legend" }, ...[...LEGEND, ...more].map(
    ([letter, style, text]) => make("li", {}, make("b", { class: style, text: letter, "aria-hidden": "true" }), text),
  ));
  const CUT_LEGEND = ["F", "v-fail cut", "the run is incomplete"];

  // --- time and numbers
  const two = (number) => String(number).padStart(2, "0");
  const MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
  const when = (stamp) => {
    const at = new Date(stamp * 1000);
    return `${at.getUTCFullYear()}-${two(at.getUTCMonth() + 1)}-${two(at.getUTCDate())} ${two(at.getUTCHours())}:${two(at.getUTCMinutes())} UTC`;
  };
  const took = (seconds) => seconds === null ? "" : seconds < 120 ? `${seconds.toFixed(1)} s`
    : `${Math.floor(seconds / 60)} min ${Math.round(seconds % 60)} s`;
  const count = (number, one, many) => `${number} ${number === 1 ? one : many || `${one}s`}`;

  const words = (text) => text.toLowerCase().split(/\s+/).filter(Boolean);
  const hash = () => new URLSearchParams(location.hash.slice(1));

  // --- a grid of verdicts: rows {label, title, href, text, at(column)}, columns {start, hand, says}; the newest on the right
  const grid = (rows, columns, named, pick) => {
    let shown = rows, most = ROWS, first = 0, width = 1, picked = null;
    const table = make("table", { class: "grid", role: "grid", "aria-label": named });
    const place = make("div", { class: "scroll" }, table);
    const range = make("output", { "aria-live": "polite" });
    const none = make("p", { class: "none", text: "Nothing matches the filter.", hidden: true });
    const older = make("button", { type: "button", text: "← older", onclick: () => shift(-width) });
    const newer = make("button", { type: "button", text: "newer →", onclick: () => shift(width) });
    const more = make("button", { type: "button", class: "more-rows", onclick: () => { most = Infinity; draw(); } });
    const clamp = (number) => Math.max(0, Math.min(number, columns.length - width));
    const shift = (by) => { first = clamp(first + by); draw(); };
    const fit = () => {
      const room = place.clientWidth - 24;
      const label = Math.min(Math.max(room * 0.36, 120), 340);
      const now = Math.max(4, Math.min(columns.length, Math.floor((room - label) / COLUMN)));
      if (now !== width) {
        const end = first + width;
        width = now;
        first = clamp(end <= 1 ? columns.length : end - width);
      }
      return label;
    };
    const choose = (row, column) => { picked = [row, column]; pick(row, column); mark(); };
    const mark = () => {
      for (const old of table.querySelectorAll(".picked")) old.classList.remove("picked");
      if (!picked) return;
      const [row, column] = picked;
      const line = row ? [...table.tBodies[0].rows].find((one) => one.row === row) : null;
      const cell = line ? line.cells[column - first + 1] : table.tHead.rows[1].cells[column - first + 1];
      if (column >= first && column < first + width && cell) cell.classList.add("picked");
    };
    const draw = () => {
      const label = fit();
      const seen = columns.slice(first, first + width);
      const months = make("tr", {}, make("td"));
      const days = make("tr", {}, make("th", { scope: "col", text: named }));
      for (const [number, column] of seen.entries()) {
        const at = new Date(column.start * 1000);
        const month = `${MONTHS[at.getUTCMonth()]} ${at.getUTCFullYear()}`;
        const last = months.lastChild;
        if (last.month === month) last.colSpan += 1;
        else months.append(Object.assign(make("td", { class: "soft" }), { month }));
        days.append(make("th", { scope: "col", class: column.hand ? "hand" : null }, make("button", {
          type: "button", text: two(at.getUTCDate()), title: column.says, "aria-label": column.says,
          onclick: () => choose(null, first + number),
        })));
      }
      for (const cell of months.cells) if (cell.month) cell.textContent = cell.colSpan > 3 ? cell.month : cell.colSpan > 1 ? cell.month.slice(0, 3) : "";
      const lines = shown.slice(0, most).map((row) => {
        const name = row.href ? make("a", { href: row.href, text: row.label }) : document.createTextNode(row.label);
        const line = make("tr", {}, make("th", { scope: "row", title: row.title || row.label }, make("span", {}, name)));
        line.row = row;
        for (let column = first; column < first + seen.length; column += 1) {
          const [letter, style, says] = look(row.at(column));
          line.append(make("td", { class: style, text: letter, "aria-label": says, tabindex: "-1" }));
        }
        return line;
      });
      table.style.width = `${label + seen.length * COLUMN + 2}px`;
      const cols = make("colgroup", {}, make("col"), ...seen.map(() => make("col")));
      cols.firstChild.style.width = `${label}px`;
      for (const col of [...cols.children].slice(1)) col.style.width = "22px";
      months.setAttribute("aria-hidden", "true");
      table.replaceChildren(cols, make("thead", {}, months, days), make("tbody", {}, ...lines));
      const start = table.querySelector("tbody td:last-child");
      if (start) start.tabIndex = 0;
      older.disabled = first === 0;
      newer.disabled = first + width >= columns.length;
      range.textContent = columns.length ? `${first + 1}–${first + seen.length} of ${columns.length}; ${count(shown.length, "row")}` : "";
      none.hidden = shown.length > 0;
      place.hidden = shown.length === 0;
      more.hidden = shown.length <= most;
      more.textContent = `show all ${shown.length} rows`;
      mark();
    };
    const cellOf = (event) => event.target.closest && event.target.closest("tbody td");
    table.addEventListener("click", (event) => {
      const cell = cellOf(event);
      if (cell) choose(cell.parentNode.row, first + cell.cellIndex - 1);
    });
    table.addEventListener("keydown", (event) => {
      const cell = cellOf(event);
      if (!cell || event.ctrlKey || event.altKey || event.metaKey) return;
      let row = cell.parentNode.sectionRowIndex, column = first + cell.cellIndex - 1;
      if (event.key === "Enter" || event.key === " ") choose(cell.parentNode.row, column);
      else if (event.key === "ArrowLeft") column -= 1;
      else if (event.key === "ArrowRight") column += 1;
      else if (event.key === "ArrowUp") row -= 1;
      else if (event.key === "ArrowDown") row += 1;
      else if (event.key === "Home") column = 0;
      else if (event.key === "End") column = columns.length - 1;
      else if (event.key === "PageUp") column -= width;
      else if (event.key === "PageDown") column += width;
      else return;
      event.preventDefault();
      column = Math.max(0, Math.min(column, columns.length - 1));
      row = Math.max(0, Math.min(row, table.tBodies[0].rows.length - 1));
      if (column < first || column >= first + width) {
        first = clamp(column < first ? column : column - width + 1);
        draw();
      }
      const next = table.tBodies[0].rows[row].cells[column - first + 1];
      for (const old of table.querySelectorAll("td[tabindex='0']")) old.tabIndex = -1;
      next.tabIndex = 0;
      next.focus();
    });
    let size = 0;
    new ResizeObserver(() => {
      if (place.clientWidth && place.clientWidth !== size) { size = place.clientWidth; draw(); }
    }).observe(place);
    return {
      place, none, more, older, newer, range, draw,
      show: (some) => { shown = some; most = ROWS; draw(); },
      pick: (row, column) => {
        if (column < first || column >= first + width) first = clamp(column - width + 1);
        draw();
        choose(row, column);
      },
    };
  };

  const facts = (pairs) => make("div", { class: "facts" }, make("dl", {}, ...pairs.filter(([, value]) => value).map(
    ([name, value]) => make("div", {}, make("dt", { text: name }), make("dd", {}, value)),
  )));
  const lines = (title, items) => items.length
    ? make("div", {}, make("h3", { text: `${title}: ${items.length}` }), make("ul", {}, ...items)) : null;
  const item = (...parts) => make("li", {}, ...parts);

  // --- the overview
  const overview = () => {
    const columns = data.columns.map(([name, start, night]) => ({
      name, start, hand: !night, says: night ? `night ${name}, ${when(start)}` : `by hand on ${name}`,
    }));
    const rows = data.cells.map((cell) => ({
      label: cell.key, title: cell.key, href: cell.page, cell, text: cell.key.toLowerCase(), at: (column) => cell.values[column],
    }));
    const nights = columns.filter((column) => !column.hand).length;
    head.replaceChildren(
      make("p", { class: "eyebrow", text: "labkit" }),
      make("h1", { text: "History" }),
      make("p", { class: "sub", text: `${count(data.cells.length, "cell")}, ${count(data.counts.nights, "night")}, ${count(data.counts.runs, "run")}; as of ${when(data.made)}` }),
      data.counts.nights > nights ? make("p", { class: "sub", text: `The newest ${nights} nights are shown; ./lab history has all.` }) : "",
    );
    if (!rows.length) {
      say("There are no runs yet: ./lab test makes one.");
      return;
    }
    const panel = make("div", { class: "panel", id: "night", "aria-live": "polite" });
    const label = (test) => data.tests[test][0];
    const cellLink = (number, test) => {
      const cell = data.cells[number];
      return make("a", { href: `${cell.page}${test === null ? "" : `#q=${encodeURIComponent(label(test))}`}`, text: cell.key });
    };
    const changed = (title, found) => lines(title, found.map(([test, cells, note]) => item(
      make("b", { text: label(test) }), data.tests[test][1] ? ` ${data.tests[test][1]}` : "", note ? ` (${note})` : "", make("br"),
      ...cells.flatMap((number, at) => at ? [", ", cellLink(number, test)] : [cellLink(number, test)]),
    )));
    const show = (column) => {
      const about = columns[column], night = data.nights[about.name];
      const parts = [make("h3", { text: about.says[0].toUpperCase() + about.says.slice(1) })];
      const ran = data.cells.filter((cell) => cell.values[column]).length;
      if (night && night.reason) parts.push(make("p", { class: "message", text: `Incomplete: ${night.reason}` }));
      if (night) {
        parts.push(
          changed("new failures", night.new), changed("fixed", night.fixed), changed("flaky", night.flaky),
          ...night.more.map(([title, texts]) => lines(title, texts.map((text) => item(text)))),
        );
        if (parts.filter(Boolean).length === 1) parts.push(make("p", { class: "soft", text: "Nothing changed." }));
        if (night.left) parts.push(make("p", { class: "soft", text: `and ${night.left} more: ./lab history` }));
      } else if (!about.hand) {
        parts.push(make("p", { class: "soft", text: "What changed in nights as old as this is in its cells' pages." }));
      }
      const list = data.cells.filter((cell) => cell.runs[column]).map((cell) => {
        const [, style, says] = look(cell.values[column]);
        return make("tr", {},
          make("th", { scope: "row" }, make("a", { href: cell.page, text: cell.key })),
          make("td", {}, make("span", { class: style, text: ` ${says} ` })),
          make("td", { class: "num", text: cell.bad[column] ? `${cell.bad[column]} bad` : "" }),
          make("td", {}, runLink(cell.runs[column])));
      });
      parts.push(make("details", {}, make("summary", { text: count(ran, "cell") }),
        make("div", { class: "scroll" }, make("table", { class: "list" }, make("tbody", {}, ...list)))));
      if (about.link) parts.push(make("p", {}, make("a", { href: about.link, text: "the night's own page" })));
      panel.replaceChildren(...parts.filter(Boolean));
      const bits = night ? [["new failures", night.new.length, "some"], ["fixed", night.fixed.length, "good"], ["flaky", night.flaky.length, "odd"],
        ["lab errors", night.lab_errors, "some"], ["not run", night.not_run, "odd"]] : [];
      tiles.replaceChildren(...bits.map(([name, number, style]) => make("div", { class: `tile ${number ? style : ""}` },
        make("b", { text: number }), make("span", { text: name }))));
      tiles.hidden = !bits.length;
      if (about.name && !about.hand) history.replaceState(null, "", `#night=${encodeURIComponent(about.name)}`);
    };
    for (const [name, link] of Object.entries(data.links)) {
      const column = columns.find((one) => one.name === name && !one.hand);
      if (column) column.link = link;
    }
    const tiles = make("div", { class: "tiles five" });
    const made = grid(rows, columns, "cell", (row, column) => show(column));
    const filter = make("input", { type: "search", placeholder: "filter cells", "aria-label": "filter cells" });
    filter.addEventListener("input", () => {
      const wanted = words(filter.value);
      made.show(rows.filter((row) => wanted.every((word) => row.text.includes(word))));
    });
    const flaky = data.flaky.map(([number, test, flips, often, runs]) => item(
      make("b", { text: label(test) }), ` ${data.tests[test][1]}: `, cellLink(number, test),
      `, ${[flips ? count(flips, "change") : "", often ? `${often} flaky` : ""].filter(Boolean).join(", ")} in ${runs} runs`));
    const durations = data.cells.filter((cell) => cell.last !== null).map((cell) => make("tr", { class: cell.slow ? "slow" : null },
      make("th", { scope: "row" }, make("a", { href: cell.page, text: cell.key }), cell.slow ? " " : "", cell.slow ? make("span", { class: "mark", text: "slower" }) : ""),
      make("td", { class: "num", text: took(cell.last) }), make("td", { class: "num", text: took(cell.usual) }),
      make("td", { class: "num wide", text: took(cell.bound) })));
    const squares = make("section", {}, make("div", { class: "filter" }, filter, made.older, made.newer, made.range), made.none, made.place, made.more,
      legend([["L", "v-lab", "lab error, quarantined (Q), not run (–)"], CUT_LEGEND]));
    const changes = section("What changed", panel);
    main.append(
      tiles,
      ...(rows.length > 15 ? [changes, squares] : [squares, changes]),  // the news must not be far down
      flaky.length ? section("Flaky", make("div", { class: "panel" }, make("ul", { class: "plain" }, ...flaky))) : "",
      durations.length ? section("Durations", make("div", { class: "panel" }, make("table", { class: "list" },
        make("thead", {}, make("tr", {}, ...["cell", "newest", "usual", "slower above"].map(
          (text, at) => make("th", { scope: "col", class: at ? (at === 3 ? "num wide" : "num") : null, text })))),
        make("tbody", {}, ...durations)))) : "",
    );
    const asked = columns.findIndex((column) => !column.hand && column.name === hash().get("night"));
    made.draw();
    const newest = columns.findLastIndex((column) => !column.hand);
    made.pick(null, asked >= 0 ? asked : newest >= 0 ? newest : columns.length - 1);
  };
  const runLink = ([name, there]) => there ? make("a", { href: data.reports + encodeURIComponent(name) + "/report.html", text: "report" })
    : make("span", { class: "soft", text: "report gone" });

  // --- a cell
  const unroll = (packed) => {
    const row = new Uint8Array(data.runs.length);
    let at = 0;
    for (let number = 0; number < packed.length; number += 2) {
      row.fill(packed[number + 1], at, at + packed[number]);
      at += packed[number];
    }
    return row;
  };
  const cell = () => {
    const runs = data.runs.map(([name, night, start, seconds, status, fact, bad, results, there, cut, whole]) => (
      { name, night, start, seconds, status, fact: data.facts[fact], bad, results, there, cut, whole, hand: !night,
        says: `${night ? `night ${night}` : "by hand"}, ${when(start)}` }));
    const patterns = data.patterns.map(unroll);
    const rows = data.tests.map(([program, name, reference, title], number) => {
      const changed = number < data.rows.length;
      let values = changed ? unroll(data.rows[number]) : null;
      const [steady, pattern] = changed ? [0, 0] : data.same[number - data.rows.length];
      const label = program ? `${program}: ${name}` : name;
      const at = changed ? (run) => values[run] : (run) => patterns[pattern][run] ? steady : 0;
      const newest = () => { for (let run = runs.length - 1; run >= 0; run -= 1) if (at(run)) return at(run); return 0; };
      return { label, title: title || reference || label, about: title, reference, changed, at, newest: newest(),
        text: `${label} ${title} ${reference}`.toLowerCase() };
    });
    const last = runs[runs.length - 1];
    head.replaceChildren(
      make("p", { class: "eyebrow" }, make("a", { href: "../index.html", text: "← History" })),
      make("h1", { text: data.key }),
      make("p", { class: "sub", text: `${count(data.counts.runs, "run")}, ${count(rows.length, "check")}, of which ${data.rows.length} changed; as of ${when(data.made)}` }),
      data.counts.runs > runs.length ? make("p", { class: "sub", text: `The newest ${runs.length} runs are shown; ./lab history has all.` }) : "",
    );
    const panel = make("div", { class: "panel", id: "about", "aria-live": "polite", tabindex: "0", role: "region", "aria-label": "what is picked" });
    const since = (row, run) => {
      let from = run;
      for (let at = run; at >= 0; at -= 1) {
        const value = row.at(at);
        if (value && bad(value) !== bad(row.at(run))) break;
        if (value) from = at;
      }
      return from;
    };
    const show = (row, number) => {
      const run = runs[number], parts = [];
      if (row) {
        parts.push(make("h2", { text: row.label }));
        if (row.about) parts.push(make("p", { text: row.about }));
        const value = row.at(number);
        const [, style, says] = look(value);
        const from = value ? since(row, number) : number;
        parts.push(make("p", {}, make("span", { class: style, text: ` ${says} ` }),
          value ? ` ${bad(value) ? "bad" : "good"} since ${runs[from].says}${from ? "" : " (the oldest run here)"}` : ""));
        if (row.reference) parts.push(make("p", { class: "reference", text: row.reference }));
      } else {
        parts.push(make("h2", { text: run.says }));
      }
      parts.push(facts([
        ["run", run.there ? make("a", { href: data.reports + encodeURIComponent(run.name) + "/report.html", text: run.name })
          : `${run.name} (its report is gone)`],
        ["when", run.says], ["results", `${run.results}, ${run.bad} bad against the policy${run.cut ? "; incomplete" : ""}`],
        ["took", took(run.seconds)], ...Object.entries(run.fact),
      ]));
      if (!row) {
        const before = number - 1;
        const different = before < 0 ? [] : rows.filter((one) => one.changed && one.at(number) && one.at(before) && one.at(number) !== one.at(before));
        const list = different.slice(0, 100).map((one) => item(make("b", { text: one.label }), ` ${look(one.at(before))[2]} → ${look(one.at(number))[2]}`));
        parts.push(lines("changed from the run before", list) || make("p", { class: "soft", text: "The same as in the run before." }));
        const lab = before < 0 ? [] : Object.entries(run.fact).filter(([key, value]) => runs[before].fact[key] !== value);
        const changes = lines("changed in the lab", lab.map(([key, value]) => item(`${key}: ${runs[before].fact[key]} → ${value}`)));
        if (changes) parts.push(changes);
      }
      panel.replaceChildren(...parts);
    };
    const time = make("div", { class: "panel" });
    const made = grid(rows, runs, "check", show);
    const filter = make("input", { type: "search", placeholder: "filter checks", "aria-label": "filter checks" });
    const all = make("input", { type: "checkbox", id: "all" });
    const state = make("select", { "aria-label": "state" }, ...[["", "any state"], ["bad", "bad against the policy"], ["known", "bad as expected"], ["flaky", "flaky"], ["good", "good"]].map(
      ([value, text]) => make("option", { value, text })));
    const match = {
      "": () => true, bad: (value) => bad(value) && !((value - 1) & EXPECTED), known: (value) => bad(value) && ((value - 1) & EXPECTED) !== 0,
      flaky: (value) => value > 0 && ((value - 1) & 15) === 3, good: (value) => value > 0 && !bad(value),
    };
    const apply = () => {
      const wanted = words(filter.value);
      made.show(rows.filter((row) => (all.checked || row.changed) && match[state.value](row.newest) && wanted.every((word) => row.text.includes(word))));
    };
    const asked = hash().get("q");
    if (asked) {
      filter.value = asked;
      all.checked = !rows.some((row) => row.changed && words(asked).every((word) => row.text.includes(word)));
    }
    filter.addEventListener("input", apply);
    all.addEventListener("change", apply);
    state.addEventListener("change", apply);
    main.append(
      make("section", {}, make("div", { class: "filter" }, filter, state, make("label", {}, all, "also what never changed"), made.older, made.newer, made.range),
        made.none, made.place, made.more, legend([["", "v-none", "empty: not in that run"]])),
      make("section", { class: "docked" }, panel),
      section("Durations", time),
    );
    let size = 0;
    new ResizeObserver(() => {
      if (time.clientWidth !== size) { size = time.clientWidth; time.replaceChildren(...chart(runs, Math.max(size - 40, 200))); }
    }).observe(time);
    apply();
    if (last) made.pick(null, runs.length - 1);
  };

  const SVG = "http://www.w3.org/2000/svg";
  const draw = (tag, about, text) => {
    const element = document.createElementNS(SVG, tag);
    for (const [name, value] of Object.entries(about)) element.setAttribute(name, value);
    if (text !== undefined) element.textContent = text;
    return element;
  };
  const chart = (runs, wide) => {
    const whole = runs.filter((run) => run.whole);
    if (whole.length < 2) return [make("p", { class: "soft", text: "Too few complete runs." })];
    const high = 160, left = 54, foot = 18;
    const top = Math.max(data.bound || 0, ...whole.map((run) => run.seconds)) * 1.1 || 1;
    const x = (number) => left + number * (wide - left - 8) / (whole.length - 1);
    const y = (seconds) => high - foot - seconds / top * (high - foot - 8);
    const newest = whole[whole.length - 1];
    const says = `newest ${took(newest.seconds)}, usual ${took(data.usual)}${data.bound === null ? "" : `, slower above ${took(data.bound)}`}`;
    const svg = draw("svg", { viewBox: `0 0 ${wide} ${high}`, role: "img", "aria-label": `how long ${whole.length} runs took: ${says}` });
    for (const part of [0, 0.5, 1]) {
      const seconds = top * part / 1.1;
      svg.append(draw("text", { x: left - 6, y: y(seconds) + 4, "text-anchor": "end" }, took(seconds)));
    }
    if (data.bound !== null) svg.append(draw("line", { class: "bound", x1: left, x2: wide - 8, y1: y(data.bound), y2: y(data.bound) }));
    svg.append(draw("polyline", { class: "took", points: whole.map((run, number) => `${x(number).toFixed(1)},${y(run.seconds).toFixed(1)}`).join(" ") }));
    whole.forEach((run, number) => {
      if (data.bound === null || run.seconds <= data.bound) return;
      const [a, b] = [x(number), y(run.seconds)];
      svg.append(draw("polygon", { class: "slow", points: `${a - 5},${b + 4} ${a + 5},${b + 4} ${a},${b - 6}` }));
    });
    svg.append(draw("text", { x: left, y: high - 3 }, when(whole[0].start).slice(0, 10)), draw("text", { x: wide - 8, y: high - 3, "text-anchor": "end" }, when(newest.start).slice(0, 10)));
    return [make("p", {}, says, data.bound !== null && newest.seconds > data.bound ? " " : "",
      data.bound !== null && newest.seconds > data.bound ? make("span", { class: "mark", text: "slower than usual" }) : ""), svg];
  };

  if (data.kind === "overview") overview();
  else cell();
  document.documentElement.dataset.ready = "yes";
  requestAnimationFrame(() => setTimeout(() => performance.mark("drawn")));  // after the next frame: benchmarks/history.py
})().catch((error) => {
  const wait = document.getElementById("wait");
  wait.textContent = `This page cannot be shown: ${error.message}`;
  wait.hidden = false;
  throw error;
});
