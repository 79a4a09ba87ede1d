/** The clip with the sound that the model heard; waveform, mel spectrogram and attention under one playhead. */

import type { ComponentChildren } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import { useWidth } from "./chart";
import type { Clip } from "./data";
import { Save, type SaveProps } from "./parts";
import { digits, ticks } from "./scale";

/** The one element that plays. */
export const player = (): HTMLMediaElement | null => document.querySelector("video, audio");

export function Player({ clip }: { clip: Clip }) {
  const [broken, setBroken] = useState(false);
  // Only the site's own folder, or the page itself, whatever the data say.
  const own = clip.src?.startsWith("media/") ? clip.src.split("/").map(encodeURIComponent).join("/") : "";
  const media = {
    src: clip.src && /^data:(audio|video)\//.test(clip.src) ? clip.src : own,
    controls: true,
    preload: "metadata" as const,
    "aria-label": clip.peaks.length ? "The clip with the sound that the model heard" : "The clip, without a sound that was heard",
    onError: () => setBroken(true),
  };
  const reason = broken ? "This browser cannot play the clip's file or its codec. Try another browser." : clip.problem;
  if (media.src && !broken)
    return clip.frames || !/\.(wav|mp3|flac|ogg|m4a)$/i.test(media.src) ? <video {...media} /> : <audio {...media} />;
  return (
    <div>
      <p class="absent">No clip to play. {reason ?? "The site was written without it."}</p>
      {clip.frames && (
        <div class="strip scroll" tabIndex={0} role="region" aria-label="Frames of the clip">
          {clip.frames.times.map((time, i) => (
            <figure><Picture clip={clip} i={i} /><figcaption>{digits(time)} s</figcaption></figure>
          ))}
        </div>
      )}
    </div>
  );
}

/** Frame i of the sheet, and what is drawn over it in the frame's own pixels. */
export function Picture({ clip, i, children }: { clip: Clip; i: number; children?: ComponentChildren }) {
  const { width, height, times } = clip.frames!;
  return (
    <svg class="frame" viewBox={`0 0 ${width} ${height}`} role="img" aria-label={`Frame at ${digits(times[i])} s`}>
      <Sheet clip={clip} i={i} x={0} y={0} />
      {children}
    </svg>
  );
}

/** Frame i of the sheet within a picture, cut out at x, y. */
export function Sheet({ clip, i, x, y }: { clip: Clip; i: number; x: number; y: number }) {
  const { src, width, height, times } = clip.frames!;
  return (
    <svg x={x} y={y} width={width} height={height} viewBox={`${i * width} 0 ${width} ${height}`}>
      {src.startsWith("data:image/") && <image href={src} width={width * times.length} height={height} />}
    </svg>
  );
}

/** Seconds into the clip, while it plays and when it is sought. */
function usePlayhead(): number {
  const [time, setTime] = useState(0);
  useEffect(() => {
    let frame = 0;
    const follow = () => {
      const media = player();
      if (media) setTime(media.currentTime);
      frame = media && !media.paused ? requestAnimationFrame(follow) : 0;
    };
    const start = () => void (frame ||= requestAnimationFrame(follow));
    // Media events do not bubble; they can be caught on their way down.
    const events = ["play", "seeking", "timeupdate", "loadedmetadata"];
    for (const event of events) document.addEventListener(event, start, true);
    return () => {
      cancelAnimationFrame(frame);
      for (const event of events) document.removeEventListener(event, start, true);
    };
  }, []);
  return time;
}

function Playhead({ x, height }: { x: (time: number) => number; height: number }) {
  const at = x(usePlayhead());
  return <path class="playhead" d={`M${at.toFixed(1)},0V${height}`} />;
}

const [WAVE, MEL, BAR] = [56, 84, 64];

interface TimelineProps extends Omit<SaveProps, "svg"> {
  clip: Clip;
  /** Shares of whole seconds. */
  sound?: { second: number; share: number }[];
  label: string;
}

/** Time from left to right: shares of attention if given, waveform, and the spectrogram if not. Click to seek. */
export function Timeline({ clip, sound, label, ...save }: TimelineProps) {
  const [ref, width] = useWidth<HTMLDivElement>();
  const own = useRef<SVGSVGElement>(null);
  const seconds = Math.max(clip.seconds, ...(sound ?? []).map((one) => one.second + 1), 0.1);
  const x = (time: number) => (Math.min(time, seconds) / seconds) * width;
  const top = sound ? BAR : 0;
  const mel = sound ? null : clip.mel;
  const bottom = top + (clip.peaks.length ? WAVE : 0) + (mel ? MEL : 0);
  const most = Math.max(...(sound ?? []).map((one) => one.share), 1e-9);
  const loudest = Math.max(...clip.peaks.map(([low, high]) => Math.max(-low, high)), 0.01); // quiet sounds are seen too
  const wave = clip.peaks.map(([low, high], i) => {
    const at = (i + 0.5) * (x(clip.seconds) / clip.peaks.length);
    const y = (value: number) => (top + WAVE / 2 - (value / loudest) * (WAVE / 2 - 2)).toFixed(1);
    return `M${at.toFixed(1)},${y(low)}V${y(high)}`;
  });
  const seek = (event: MouseEvent) => {
    const media = player();
    const box = own.current!.getBoundingClientRect();
    if (media) media.currentTime = ((event.clientX - box.left) / box.width) * seconds;
  };
  if (!bottom) return <p class="absent">No sound to draw. {clip.problem}</p>;
  return (
    <div class="timeline" ref={ref}>
      {width > 0 && (
        <svg ref={own} viewBox={`0 0 ${width} ${bottom + 18}`} width={width} height={bottom + 18} role="img" aria-label={label} onClick={seek}>
          {sound?.map(({ second, share }) => (
            <rect class="heat-bar" x={x(second)} width={Math.max(1, x(second + 1) - x(second) - 0.5)} y={BAR - 4 - (share / most) * (BAR - 10)} height={(share / most) * (BAR - 10)}>
              <title>{`${digits(second)} s: ${digits(100 * share)} %`}</title>
            </rect>
          ))}
          <path class="wave" d={wave.join("")} />
          {mel && mel.src.startsWith("data:image/") && <image href={mel.src} x={0} y={top + (clip.peaks.length ? WAVE : 0)} width={x(clip.seconds)} height={MEL} preserveAspectRatio="none" />}
          <g class="axes">
            {ticks([0, seconds], Math.max(2, Math.floor(width / 70))).map((time) => (
              <text x={Math.max(10, Math.min(x(time), width - 14))} y={bottom + 14} text-anchor="middle">{digits(time)} s</text>
            ))}
          </g>
          <Playhead x={x} height={bottom} />
        </svg>
      )}
      <Save svg={own} {...save} />
    </div>
  );
}
