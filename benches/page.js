// docs/benchmarks.md as parts: its head, the lines of what was wanted, and the tables. After a run of some works the
// tables and lines of the others stay as they are.
const GOALS = "## What cohortd was to reach\n";
const GOALS_HEAD = "Medians; a ratio is that of the same round.\n\n| | wanted | measured | reached |\n|---|---|---|---|\n";
const TABLES = "## Tables\n";
const PLOT = "\n![Router CPU a request over the number of idle WebSockets](benchmarks.svg)\n";

exports.write = ({ head, goals, tables }) => `${head}${GOALS}${GOALS_HEAD}${goals.join("\n")}\n\n${TABLES}${tables.join("\n")}${PLOT}`;

function read(text) {
  const [head, rest] = text.split(GOALS);
  const [goals, tables] = rest.split(TABLES);
  return {
    head,
    goals: goals.split("\n").filter((line) => /^\| [^|]/.test(line)),
    tables: tables.replace(PLOT, "").split(/^(?=### )/m).map((table) => `${table.trimEnd()}\n`),
  };
}

const ofGoal = (line) => line.slice(2, line.indexOf(" | "));
const ofTable = (table) => table.slice(4, table.indexOf("\n"));
function merge(before, now, order, nameOf) {
  const named = new Map([...before, ...now].map((part) => [nameOf(part), part]));
  return order.map((name) => named.get(name)).filter(Boolean);
}

// The page `text`, with what was measured now; `order` has the names of all goals and tables there are.
exports.renew = (text, { goals, tables }, order) => {
  const before = read(text);
  return exports.write({
    head: before.head,
    goals: merge(before.goals, goals, order.goals, ofGoal),
    tables: merge(before.tables, tables, order.tables, ofTable),
  });
};
