/** What did the model do with one clip? */

import { Attention } from "./attention";
import { Cut, curve, Plain } from "./answers";
import { Chart } from "./chart";
import { Player, Timeline } from "./clip";
import type { Sample, Study } from "./data";
import { Lens } from "./lens";
import { useLoaded } from "./load";
import { chosen } from "./overview";
import { Absent, Pick, Section, Words } from "./parts";
import { address, change, range, spelled } from "./route";
import { Tokens } from "./tokens";

interface SampleProps {
  study: Study;
  n: string;
  file: string;
  params: Record<string, string>;
}

/** Previous and next in the overview's order; all samples if this one is not among its choice. */
function Steps({ study, file, params }: SampleProps) {
  const found = chosen(study, params);
  const rows = found.some((row) => row.file === file) ? found : study.samples;
  const at = rows.findIndex((row) => row.file === file);
  const { token: _, ...kept } = params;
  const step = (row: (typeof rows)[number] | undefined, rel: string, text: string) =>
    row ? <a rel={rel} href={address({ page: "sample", file: row.file, params: kept })}>{text}</a> : <span class="muted">{text}</span>;
  return (
    <nav class="steps" aria-label="Samples">
      {step(rows[at - 1], "prev", "← Previous")}
      <span class="muted">{at + 1} of {rows.length}</span>
      {step(rows[at + 1], "next", "Next →")}
    </nav>
  );
}

function Answered({ study, n, params, sample, question }: Omit<SampleProps, "file"> & { sample: Sample; question: string }) {
  const tokens = sample.tokens[question];
  const meta = sample.attention[question];
  const token = tokens && range(params.token, tokens.length - 1);
  const first = tokens && meta ? Math.min(1, tokens.length - 1) : 0;
  const looked = token ?? [first, first];
  const phrase = tokens?.slice(looked[0], looked[1] + 1).map((one) => one.text).join("").trim() ?? "";
  return (
    <Section title={`Tokens of the answer to “${question}”`} note="Click a token, drag over a phrase, or move with the arrow keys (with Shift: a phrase); a double click takes the whole word.">
      {tokens?.length ? (
        <Tokens tokens={tokens} words={sample.words[question]} chosen={token} onChoose={(picked) => change({ token: spelled(picked), question })} />
      ) : <Absent what="The answer token by token" stage="captions" missing={study.missing} />}
      {tokens?.length && tokens.every((one) => one.shift === null) ? <Absent what="How far tokens moved from the base" stage="distribution_shift" missing={study.missing} /> : null}
      <h3>Where the model looked</h3>
      {meta && tokens?.length ? (
        <Attention key={meta.file} study={n} clip={sample.clip} meta={meta} params={params} tokens={looked} phrase={phrase} />
      ) : <Absent what="Attention of single tokens" stage="attention" missing={study.missing} />}
    </Section>
  );
}

function Cuts({ study, sample, question, params }: { study: Study; sample: Sample; question: string; params: Record<string, string> }) {
  const all = sample.answers.filter((one) => one.question === question);
  const keys = [...new Set(all.flatMap((one) => one.key ?? []))];
  const points = sample.knockout.filter((one) => one.question === question);
  const figure = curve(points, all.find((one) => !one.condition));
  const shown = all.filter((one) => !one.condition || !params.cut || one.key === params.cut);
  return (
    <Section title={`Attention cut, “${question}”`}>
      {figure.panels.length ? <Chart figure={figure} /> : <Absent what="The knockout curve" stage="knockout" missing={study.missing} />}
      {keys.length > 0 && (
        <>
          <div class="controls"><Pick label="Cut" value={params.cut ?? ""} options={[["", "sound and picture"], ...keys.map((key): [string, string] => [key, key])]} onPick={(cut) => change({ cut })} /></div>
          <Cut answers={shown} />
        </>
      )}
    </Section>
  );
}

function Shown({ study, n, file, params, sample }: SampleProps & { sample: Sample }) {
  const known = new Set([...study.questions, ...sample.answers.map((one) => one.question)]);
  const there = new Set([...sample.answers, ...sample.lens, ...sample.knockout].map((one) => one.question).concat(Object.keys(sample.tokens)));
  const questions = [...known].filter((one) => there.has(one));
  const compared = (one: string) => sample.tokens[one]?.some((token) => token.shift !== null);
  const question = questions.find((one) => one === params.question) ?? questions.find(compared) ?? questions[0] ?? "";
  const grids = sample.lens.filter((one) => one.question === question);
  const twin = study.samples.find((row) => row.id === sample.twin && row.file !== file);
  return (
    <>
      <header class="top">
        <Steps study={study} n={n} file={file} params={params} />
        <h1 dir="auto">{sample.id}</h1>
        <p class="muted">
          <span class="kind">{sample.kind}</span>
          {twin && <> the same picture with its own sound: <a href={address({ page: "sample", file: twin.file, params })} dir="auto">{twin.id}</a></>}
        </p>
      </header>
      <div class="two">
        <Section title="Clip">
          <Player key={file} clip={sample.clip} />
          <Timeline clip={sample.clip} label="Waveform and mel spectrogram of the sound" name="the sound" header={["second", "least", "largest"]}
            rows={() => sample.clip.peaks.map(([low, high], i, all) => [(i * sample.clip.seconds) / all.length, low, high])} />
        </Section>
        <Section title="What is there">
          {(["audio", "video"] as const).map((what) => (
            <>
              <h3>{what === "audio" ? "To hear" : "To see"}</h3>
              {sample.references[what].map((text) => <Words text={text} long />)}
              {!sample.references[what].length && <p class="absent">No reference caption.</p>}
            </>
          ))}
          <h2 class="later">What was answered</h2>
          <Plain sample={sample} questions={questions} />
        </Section>
      </div>
      {questions.length > 1 && (
        <div class="controls sticky">
          <Pick label="Question, below" value={question} options={questions} onPick={(picked) => change({ question: picked, token: "" })} />
        </div>
      )}
      <Answered study={study} n={n} params={params} sample={sample} question={question} />
      <Cuts study={study} sample={sample} question={question} params={params} />
      <Section title="Logit lens over the sound">
        {grids.length ? <Lens key={`${file} ${question}`} grids={grids} /> : <Absent what="The logit lens" stage="logit_lens" missing={study.missing} />}
      </Section>
    </>
  );
}

export function SamplePage(props: SampleProps) {
  const known = props.study.samples.some((row) => row.file === props.file);
  const { value, error } = useLoaded<Sample>(known ? `${props.n}/samples/${props.file}` : null);
  if (!known || error) return <p class="absent" role="alert">{error ?? "Expected a sample of this study, got another in the address. Choose one in the overview."}</p>;
  return value && <Shown {...props} sample={value} />;
}
