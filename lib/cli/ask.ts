/** `mtransllama ask --model DIR --adapter DIR --video FILE --prompt "…"`: streams the answer to each question. */
import type { Command } from 'commander'
import { invalid } from '../errors.js'
import { checkAdapterConfig } from '../adapter/config.js'
import { openTexts } from '../session/checkpoint.js'
import { encode, imageTextConfig } from '../session/encode.js'
import { Features } from '../session/features.js'
import { adapterOutline, outlineOf } from '../session/footprint.js'
import { framesOf, openModel } from '../session/model.js'
import { askingOf, checkFits, type Asked } from './plan.js'
import { chosen, count, interruptible, located, number, opens, seconds, type Opens } from './common.js'
import { drawn, draws, type Draws } from './draws.js'

interface Options extends Opens, Draws {
  video: string
  fps?: string
  start?: string
  end?: string
  prompt: string[]
  dialogue?: string
  maxTokens: string
}

export function register(program: Command): void {
  draws(opens(program.command('ask')))
    .description('ask questions about one video')
    .requiredOption('--video <file>', 'video file, or folder of frame images with --fps')
    .option('--fps <n>', 'frames per second of a folder of images')
    .option('--start <seconds>', 'start of the clip')
    .option('--end <seconds>', 'end of the clip')
    .requiredOption(
      '--prompt <text>',
      'the question; may be given several times: one answer a line, and the clip is read once',
      (one: string, all: string[] = []) => [...all, one],
    )
    .option('--dialogue <text>', 'what is said in the video; goes to the Q-Former')
    .option('--max-tokens <n>', 'longest answer', '64')
    .action(async (o: Options) => {
      for (const [name, text] of [...o.prompt.map((prompt) => ['--prompt', prompt]), ['--dialogue', o.dialogue]]) {
        if (text?.includes('\uFFFD'))
          throw invalid(
            name!,
            'UTF-8 text',
            text,
            "a character of it was lost on the way here; set the terminal's encoding to UTF-8",
          )
      }
      const clip = {
        video: o.video,
        start: number('--start', o.start),
        end: number('--end', o.end),
        fps: number('--fps', o.fps),
      }
      const [maxTokens, timeout] = [count('--max-tokens', o.maxTokens), seconds('--timeout', o.timeout)]
      const choice = drawn(o)
      const { graphs, say, ...where } = chosen(o)
      const folder = await located(o.model, o)
      await checkFits(await questionOf({ ...o, model: folder }, maxTokens, choice.beams), where)
      const { signal, done } = interruptible()
      const model = await openModel(folder, { ...where, adapter: o.adapter })
      say(model.checkpoint)
      try {
        const sampling = { kind: 'uniform' } as const
        const features = new Features(model.checkpoint, { frames: framesOf(model.adapter), sampling, timeout })
        for (const prompt of o.prompt) {
          const question = { ...clip, prompt, dialogue: o.dialogue }
          for await (const piece of model.ask(question, { ...choice, maxTokens, features, graphs, signal }))
            process.stdout.write(piece)
          process.stdout.write('\n')
        }
      } finally {
        done()
        model.dispose()
      }
    })
}

/** The longest of the questions as its footprint knows it. */
async function questionOf(
  { model, adapter, prompt: prompts, dialogue }: Options,
  maxTokens: number,
  beams = 1,
): Promise<Asked> {
  const outline = await outlineOf(model)
  const texts = { ...(await openTexts(model, outline.config)), model: { config: outline.config } }
  const given = adapter === undefined ? undefined : await adapterOutline(adapter)
  const frames = given?.config.frames ?? 4
  const config = given ? checkAdapterConfig(given.config, outline.config) : imageTextConfig(texts, frames)
  const encoded = prompts.map((prompt) => encode(texts, config, { prompt, qformerText: dialogue }))
  return askingOf(outline, {
    frames,
    adapters: given && [given],
    qformerTokens: Math.max(...encoded.map((e) => e.qformer?.length ?? 0)),
    promptTokens: Math.max(...encoded.map((e) => e.prompt.length)),
    answerTokens: maxTokens,
    beams,
  })
}
