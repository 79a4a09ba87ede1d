/** What came out of the study, and which samples are worth a look? */

import { useMemo } from "preact/hooks";
import { Chart } from "./chart";
import type { SampleRow, Study } from "./data";
import { Absent, Pick, Section } from "./parts";
import { address, change } from "./route";
import { sorted, Table, type Column } from "./table";

export function measures(samples: SampleRow[]): Column<SampleRow>[] {
  const keys = [...new Set(samples.flatMap((row) => Object.keys(row.fidelity)))];
  return [
    ...keys.map((key) => ({ name: key, value: (row: SampleRow) => row.fidelity[key] ?? null })),
    { name: "drop", value: (row) => row.drop },
    { name: "shift", value: (row) => row.shift },
    { name: "disagreement", value: (row) => row.disagreement },
  ];
}

const said = (texts: string[]) => <div class="clamp" dir="auto">{texts.join("; ")}</div>;

const searched = (row: SampleRow): string =>
  [row.id, row.kind, ...row.heard, ...row.seen, ...Object.values(row.answers)].join("\n").toLowerCase();

/** Samples as the address asks for them: found, of a kind, within a bound, in order. */
export function chosen(study: Study, params: Record<string, string>): SampleRow[] {
  const columns = [{ name: "sample", value: (row: SampleRow) => row.id }, { name: "kind", value: (row: SampleRow) => row.kind }, ...measures(study.samples)];
  const bounded = columns.find((one) => one.name === params.where);
  const bound = Number(params.value || Number.NaN);
  const text = (params.find ?? "").trim().toLowerCase();
  const rows = study.samples.filter((row) => {
    const value = bounded?.value(row);
    const within = !bounded || Number.isNaN(bound) || (typeof value === "number" && (params.most ? value <= bound : value >= bound));
    return within && (!params.kind || row.kind === params.kind) && (!text || searched(row).includes(text));
  });
  return sorted(rows, columns, params.sort ?? "");
}

interface OverviewProps {
  study: Study;
  params: Record<string, string>;
}

function Samples({ study, params }: OverviewProps) {
  const rows = useMemo(() => chosen(study, params), [study, JSON.stringify(params)]);
  const own = measures(study.samples);
  const columns: Column<SampleRow>[] = [
    {
      name: "sample",
      value: (row) => row.id,
      show: (row) => <a href={address({ page: "sample", file: row.file, params })} dir="auto">{row.id}</a>,
    },
    { name: "kind", value: (row) => row.kind },
    ...own.filter((one) => study.samples.some((row) => one.value(row) !== null)),
    { name: "heard", value: (row) => row.heard.join("; "), show: (row) => said(row.heard) },
    { name: "seen", value: (row) => row.seen.join("; "), show: (row) => said(row.seen) },
  ];
  const kinds = [...new Set(study.samples.map((row) => row.kind))];
  return (
    <Section title="Samples">
      <div class="controls" role="search">
        <label class="control">Search <input type="search" data-search value={params.find ?? ""} placeholder="ids, events, answers" onInput={(event) => change({ find: event.currentTarget.value })} /></label>
        <Pick label="Kind" value={params.kind ?? ""} options={[["", "all"], ...kinds.map((kind): [string, string] => [kind, kind])]} onPick={(kind) => change({ kind })} />
        <Pick label="Where" value={params.where ?? ""} options={[["", "any value"], ...own.map(({ name }): [string, string] => [name, name])]} onPick={(where) => change({ where })} />
        <Pick label="is" value={params.most ?? ""} options={[["", "at least"], ["1", "at most"]]} onPick={(most) => change({ most })} />
        <label class="control">Bound <input type="number" step="any" value={params.value ?? ""} onInput={(event) => change({ value: event.currentTarget.value })} /></label>
        <output>{rows.length} of {study.samples.length} samples</output>
      </div>
      <Table name="samples" rows={rows} columns={columns} by={params.sort ?? ""} onSort={(sort) => change({ sort })} />
    </Section>
  );
}

const Pairs = ({ title, pairs }: { title: string; pairs: [string, string][] }) => (
  <details>
    <summary>{title}</summary>
    <dl class="pairs">{pairs.map(([name, value]) => <div><dt>{name}</dt><dd dir="auto">{value}</dd></div>)}</dl>
  </details>
);

export function Overview({ study, params }: OverviewProps) {
  return (
    <>
      <header class="top">
        <h1 dir="auto">{study.title}</h1>
        <p class="muted">
          model <bdi>{study.model}</bdi>, base {study.base === null ? "none" : <bdi>{study.base}</bdi>}, judge {study.judge === null ? "none" : <bdi>{study.judge}</bdi>}
        </p>
        {study.summary.map((sentence) => <p class="lead" dir="auto">{sentence}</p>)}
        {study.warnings.map((warning) => <p class="warning" role="note">{warning}</p>)}
        {study.missing.length > 0 && (
          <div class="warning" role="note">
            Not in this study:
            <ul>{study.missing.map((one) => <li><b>{one.stage}</b>: {one.reason}</li>)}</ul>
          </div>
        )}
      </header>
      <Section title="Claims of the paper">
        {study.claims.length ? (
          <div class="scroll" tabIndex={0} role="region" aria-label="Claims">
            <table class="claims">
              <thead><tr>{["Claim", "Published", "Here", "Direction", "Size"].map((name) => <th scope="col">{name}</th>)}</tr></thead>
              <tbody>
                {study.claims.map((one) => (
                  <tr><th scope="row">{one.claim}</th><td>{one.published}</td><td>{one.ours}</td><td>{one.direction}</td><td>{one.size}</td></tr>
                ))}
              </tbody>
            </table>
          </div>
        ) : <Absent what="The checklist of claims" stage="judge" missing={study.missing} />}
      </Section>
      <Samples study={study} params={params} />
      {study.figures.map((figure) => (
        <Section title={figure.title}>
          <Chart figure={figure} />
          {figure.caption.length > 0 && (
            <details>
              <summary>In words</summary>
              {figure.caption.map((sentence) => <p class="note" dir="auto">{sentence}</p>)}
            </details>
          )}
        </Section>
      ))}
      <Section title="How it was made">
        <Pairs title="Settings" pairs={study.settings} />
        <Pairs title="Versions" pairs={study.versions} />
      </Section>
    </>
  );
}
