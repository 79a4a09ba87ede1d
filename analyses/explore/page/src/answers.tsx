/** What was answered, and what with layers cut, side by side with the judge's scores and reasons. */

import type { Answer, Figure, KnockoutPoint, Sample } from "./data";
import { Scores, Words } from "./parts";
import { digits } from "./scale";

const named = (answer: Answer): string =>
  answer.key === null || answer.first === null ? answer.condition || "no intervention" : `no ${answer.key}, layers ${answer.first}–${answer.last}`;

export function Card({ title, answer }: { title: string; answer: Answer }) {
  const words = [
    answer.heard_found !== null && `heard events named: ${digits(answer.heard_found)}`,
    answer.seen_found !== null && `seen events named: ${digits(answer.seen_found)}`,
    answer.ended === false && "cut off at the limit of tokens",
  ].filter(Boolean);
  return (
    <article class="card">
      <h3>{title}</h3>
      <Words text={answer.text} long />
      <Scores scores={answer.scores} />
      {words.length > 0 && <p class="note">{words.join("; ")}</p>}
    </article>
  );
}

export function Plain({ sample, questions }: { sample: Sample; questions: string[] }) {
  const plain = questions.flatMap((question) => sample.answers.find((one) => one.question === question && !one.condition) ?? []);
  return <div class="cards">{plain.map((answer) => <Card title={answer.question} answer={answer} />)}</div>;
}

/** The knockouts of one question, beside what is said without. */
export function Cut({ answers }: { answers: Answer[] }) {
  return (
    <div class="strip scroll" tabIndex={0} role="region" aria-label="Answers with attention cut">
      {answers.map((answer) => <Card title={named(answer)} answer={answer} />)}
    </div>
  );
}

const MEASURES: Record<string, string> = {
  audio: "audio, by the judge",
  video: "video, by the judge",
  heard_found: "heard events, by words",
  seen_found: "seen events, by words",
};

/** The curve of one sample: a panel for each measure, a series for what was cut. */
export function curve(points: KnockoutPoint[], plain: Answer | undefined): Figure {
  const without: Record<string, number | null | undefined> = {
    audio: plain?.scores.find((one) => one.what === "audio")?.score,
    video: plain?.scores.find((one) => one.what === "video")?.score,
    heard_found: plain?.heard_found,
    seen_found: plain?.seen_found,
  };
  const centers = [...new Set(points.map((one) => one.center))].sort((a, b) => a - b);
  const measured = Object.keys(MEASURES).filter((one) => points.some((point) => point.scores[one] != null));
  return {
    id: "knockout of this sample",
    title: "Knockout curve of this sample",
    caption: [],
    form: "line",
    panels: measured.map((measure) => {
      const level = without[measure];
      const series = [...new Set(points.map((one) => one.key))].map((key) => ({
        name: key,
        points: points
          .filter((one) => one.key === key && one.scores[measure] != null)
          .sort((a, b) => a.center - b.center)
          .map((one) => ({ x: one.center, y: one.scores[measure]!, low: null, high: null, n: null })),
        published: [],
      }));
      const flat = level == null ? [] : centers.map((x) => ({ x, y: level, low: null, high: null, n: null }));
      return {
        title: MEASURES[measure]!,
        x: "centre of the cut layers",
        y: "score",
        series: [...series, ...(flat.length ? [{ name: "no intervention", points: flat, published: [] }] : [])],
      };
    }),
  };
}
