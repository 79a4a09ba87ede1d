/** What do two studies say of the same samples? */

import { Card } from "./answers";
import { Chart } from "./chart";
import { Player } from "./clip";
import type { Figure, Sample, SampleRow, Study } from "./data";
import { useLoaded } from "./load";
import { measures } from "./overview";
import { Pick, Section } from "./parts";
import { address, change } from "./route";
import { sorted, Table, type Column } from "./table";
import { Tokens } from "./tokens";

type Pair = [SampleRow, SampleRow];

const mean = (values: number[]): number => values.reduce((a, b) => a + b, 0) / values.length;

/** Means over the samples that both studies have a value for. */
function means(pairs: Pair[], names: [string, string], columns: Column<SampleRow>[]): Figure {
  const kinds = [...new Set(pairs.map(([row]) => row.kind))];
  const panels = columns.map((column) => {
    const both = pairs.filter((pair) => pair.every((row) => column.value(row) !== null));
    const of = (i: 0 | 1) =>
      kinds.flatMap((kind) => {
        const values = both.flatMap((pair) => (pair[0].kind === kind ? [Number(column.value(pair[i]))] : []));
        return values.length ? [{ x: kind, y: mean(values), low: null, high: null, n: values.length }] : [];
      });
    return { title: column.name, x: "kind", y: "mean", series: names.map((name, i) => ({ name, points: of(i as 0 | 1), published: [] })) };
  });
  return { id: "comparison", title: "Means over the samples of both", caption: [], form: "bar", panels: panels.filter((panel) => panel.series[0]!.points.length) };
}

function Both({ studies, pair, sides }: { studies: [Study, Study]; pair: Pair; sides: [string, string] }) {
  const samples = [useLoaded<Sample>(`${sides[0]}/samples/${pair[0].file}`), useLoaded<Sample>(`${sides[1]}/samples/${pair[1].file}`)];
  const questions = [...new Set(samples.flatMap(({ value }) => value?.answers.map((one) => one.question) ?? []))];
  return (
    <Section title={`Sample ${pair[0].id}`}>
      {samples[0]!.value && <div class="narrow"><Player key={pair[0].file} clip={samples[0]!.value.clip} /></div>}
      <p>
        {studies.map((study, i) => <a class="step" href={address({ page: "sample", file: pair[i]!.file, params: { study: sides[i]! } })}>Its page in {study.name}</a>)}
      </p>
      {samples.map(({ error }) => error && <p class="absent" role="alert">{error}</p>)}
      {questions.map((question) => (
        <div class="two equal">
          {samples.map(({ value }, i) => {
            const answer = value?.answers.find((one) => one.question === question && !one.condition);
            const tokens = value?.tokens[question];
            return (
              <div>
                {answer ? <Card title={`${question}, ${studies[i]!.name}`} answer={answer} /> : <p class="absent">{studies[i]!.name} has no answer to “{question}”.</p>}
                {tokens && tokens.length > 0 && <Tokens tokens={tokens} />}
              </div>
            );
          })}
        </div>
      ))}
    </Section>
  );
}

interface CompareProps {
  main: Study;
  params: Record<string, string>;
}

export function Compare({ main, params }: CompareProps) {
  const known = (n: string | undefined) => n !== undefined && /^\d{1,4}$/.test(n) && Number(n) < main.others.length;
  const sides: [string, string] = [known(params.left) ? params.left! : "0", known(params.right) ? params.right! : "1"];
  const several = main.others.length > 1;
  const [left, right] = [useLoaded<Study>(several ? `${sides[0]}/study` : null), useLoaded<Study>(several ? `${sides[1]}/study` : null)];
  if (!several) return <p class="absent">This site holds one study. To compare, write one of several: python -m analyses explore runs/a runs/b --out site</p>;
  const pick = (label: string, side: "left" | "right", value: string) => (
    <Pick label={label} value={value} options={main.others.map((one, i): [string, string] => [String(i), one.name])} onPick={(picked) => change({ [side]: picked })} />
  );
  const error = left.error ?? right.error;
  return (
    <>
      <header class="top"><h1>Compare two studies</h1></header>
      <div class="controls">{pick("Left", "left", sides[0])}{pick("Right", "right", sides[1])}</div>
      {error && <p class="absent" role="alert">{error}</p>}
      {left.value && right.value && <Joined studies={[left.value, right.value]} sides={sides} params={params} />}
    </>
  );
}

function Joined({ studies, sides, params }: { studies: [Study, Study]; sides: [string, string]; params: Record<string, string> }) {
  const [left, right] = studies;
  const there = new Map(right.samples.map((row) => [row.id, row]));
  const pairs = left.samples.flatMap((row): Pair[] => (there.has(row.id) ? [[row, there.get(row.id)!]] : []));
  const own = measures([...left.samples, ...right.samples]).filter((one) => pairs.some((pair) => pair.some((row) => one.value(row) !== null)));
  const measure = own.find((one) => one.name === params.measure) ?? own[0];
  const value = (i: 0 | 1) => (pair: Pair) => measure?.value(pair[i]) ?? null;
  const change_ = (pair: Pair) => {
    const [a, b] = [value(0)(pair), value(1)(pair)];
    return a === null || b === null ? null : Number(b) - Number(a);
  };
  const columns: Column<Pair>[] = [
    { name: "sample", value: ([row]) => row.id, show: ([row]) => <a href={address({ page: "compare", file: "", params: { ...params, sample: row.file } })} dir="auto">{row.id}</a> },
    { name: "kind", value: ([row]) => row.kind },
    { name: left.name, value: value(0) },
    { name: sides[0] === sides[1] ? `${right.name} again` : right.name, value: value(1) },
    { name: "right − left", value: change_ },
  ];
  const open = pairs.find(([row]) => row.file === params.sample);
  if (!pairs.length) return <p class="absent">No sample is in both: {left.name} has {left.samples.length}, {right.name} {right.samples.length}.</p>;
  return (
    <>
      {open && <Both key={`${open[0].file} ${sides}`} studies={studies} pair={open} sides={sides} />}
      <Section title="Means" note={`${pairs.length} samples are in both.`}><Chart figure={means(pairs, [left.name, columns[3]!.name], own)} /></Section>
      <Section title="Samples of both">
        <div class="controls">{measure && <Pick label="Measure" value={measure.name} options={own.map((one) => one.name)} onPick={(picked) => change({ measure: picked })} />}</div>
        <Table name="samples of both" rows={sorted(pairs, columns, params.sort ?? "")} columns={columns} by={params.sort ?? ""} onSort={(sort) => change({ sort })} />
      </Section>
    </>
  );
}
