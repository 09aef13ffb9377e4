// What the page of evaluate view can filter and order by: plain data and functions, no element of the page.
"use strict";

window.sampleFilters = ({ runs, groups, samples }) => {
  const MOST_OPTIONS = 40;
  const LONGEST_OPTION = 80;
  const two = runs.length === 2;

  // Numbered where two labels begin alike: narrow places show no more of them.
  const BEGINNING = 16;
  const alike = two && runs[0].label.slice(0, BEGINNING) === runs[1].label.slice(0, BEGINNING);
  const nameOf = (place) => (alike ? `${place + 1} ${runs[place].label}` : runs[place].label);

  function verdict(answer) {
    if (!answer) return "none";
    return answer.score >= 1 ? "right" : answer.score <= 0 ? "wrong" : "partly";
  }

  // Of the second run against the first.
  function change(sample) {
    const [before, after] = sample.answers;
    if (!before || !after) return "absent";
    return after.score > before.score ? "won" : after.score < before.score ? "lost" : "same";
  }

  function count(values) {
    const counts = new Map();
    for (const value of values) counts.set(value, (counts.get(value) || 0) + 1);
    return counts;
  }

  // A filter is { id, label, options, passes }: options are [value, text], and the value "" lets everything pass.
  // Values of samples are tagged, so that an empty one is another than that.
  const tagged = (value) => `=${value}`;

  function byValue(id, label, valueOf, order = []) {
    const counts = count(samples.map(valueOf));
    const isCategory = counts.size > 1 && counts.size <= Math.min(MOST_OPTIONS, samples.length / 2);
    if (!isCategory || [...counts.keys()].some((value) => value.length > LONGEST_OPTION)) return [];
    const known = order.filter((value) => counts.has(value));
    const others = [...counts.keys()].filter((value) => !known.includes(value)).sort();
    const text = (value) => `${value || "(none)"} (${counts.get(value)})`;
    const options = [["", label], ...[...known, ...others].map((value) => [tagged(value), text(value)])];
    return [{ id, label, options, passes: (sample, wanted) => tagged(valueOf(sample)) === wanted }];
  }

  function byVerdict(run, place) {
    const there = new Set(samples.map((sample) => verdict(sample.answers[place])));
    const words = { right: "right", wrong: "wrong", partly: "partly right", none: "no answer" };
    const whose = two ? `: ${nameOf(place)}` : "";
    const options = Object.keys(words).filter((kind) => there.has(kind)).map((kind) => [kind, words[kind] + whose]);
    return {
      id: `verdict${place}`,
      label: `Verdict on ${run.label}`,
      options: [["", `any verdict${whose}`], ...options],
      passes: (sample, wanted) => verdict(sample.answers[place]) === wanted,
    };
  }

  function byChange() {
    const counts = count(samples.map(change));
    const words = {
      won: `won by ${nameOf(1)}`,
      lost: `lost by ${nameOf(1)}`,
      same: "same score",
      absent: "not answered by both",
    };
    const kinds = Object.keys(words).filter((kind) => counts.has(kind));
    return {
      id: "change",
      label: "Change from the first to the second run",
      options: [["", "any change"], ...kinds.map((kind) => [kind, `${words[kind]} (${counts.get(kind)})`])],
      passes: (sample, wanted) => change(sample) === wanted,
    };
  }

  // Fields of metadata whose values are plain.
  function metadataFields() {
    const plain = new Map();
    for (const { metadata } of samples) {
      for (const [name, value] of Object.entries(metadata)) {
        plain.set(name, plain.get(name) !== false && ["string", "number", "boolean"].includes(typeof value));
      }
    }
    return [...plain.keys()].filter((name) => plain.get(name));
  }

  const filters = [
    ...byValue("group", "All groups", (sample) => sample.group, groups),
    ...runs.map(byVerdict),
    ...(two ? [byChange()] : []),
    ...metadataFields().flatMap((name) =>
      byValue(`metadata-${name}`, `Any ${name}`, ({ metadata }) => (name in metadata ? String(metadata[name]) : "")),
    ),
  ];

  function first(sample, measure) {
    return sample.answers[0] ? measure(sample.answers[0]) : -1;
  }

  function gain(sample) {
    const [before, after] = sample.answers;
    return before && after ? after.score - before.score : 0;
  }

  // By name: [text, what is smallest comes first]; null keeps the benchmark's order.
  const orders = {
    "": ["benchmark's order", null],
    worst: ["worst first", (sample) => first(sample, (answer) => answer.score)],
    best: ["best first", (sample) => -first(sample, (answer) => answer.score)],
    longest: ["longest answer first", (sample) => -first(sample, (answer) => answer.text.length)],
    prompt: ["longest prompt first", (sample) => -sample.prompt.length],
    ...(two ? { gained: ["most gained first", (sample) => -gain(sample)], lost: ["most lost first", gain] } : {}),
  };

  const texts = new Map(); // in lower case; made when first searched

  function contains(sample, wanted) {
    if (!texts.has(sample)) {
      const said = sample.answers.flatMap((answer) => (answer ? [answer.text, answer.parsed] : []));
      texts.set(sample, [sample.key, sample.id, sample.prompt, ...sample.targets, ...said].join("\n").toLowerCase());
    }
    return texts.get(sample).includes(wanted);
  }

  return { nameOf, verdict, change, count, filters, orders, contains };
};
