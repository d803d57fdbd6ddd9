/** `mtransllama ask --model DIR --adapter DIR --video FILE --prompt "…"`: streams the answer. */
import type { Command } from 'commander'
import { invalid } from '../errors.js'
import { openModel } from '../session/model.js'
import { readAdapterInfo } from '../adapter/save.js'
import { openTexts } from '../session/checkpoint.js'
import { encode, imageTextConfig } from '../session/encode.js'
import { outlineOf } from '../session/footprint.js'
import { askingOf, checkFits, type Asked } from './plan.js'
import { chosen, count, interruptible, located, number, opens, seconds, type Opens } from './common.js'

interface Options extends Opens {
  video: string
  fps?: string
  start?: string
  end?: string
  prompt: string
  dialogue?: string
  maxTokens: string
}

export function register(program: Command): void {
  opens(program.command('ask'))
    .description('ask one question about one video')
    .requiredOption('--video <file>', 'video file, or folder of frame images with --fps')
    .option('--fps <n>', 'frames per second of a folder of images')
    .option('--start <seconds>', 'start of the clip')
    .option('--end <seconds>', 'end of the clip')
    .requiredOption('--prompt <text>', 'the question')
    .option('--dialogue <text>', 'what is said in the video; goes to the Q-Former')
    .option('--max-tokens <n>', 'longest answer', '64')
    .action(async (o: Options) => {
      for (const [name, text] of [
        ['--prompt', o.prompt],
        ['--dialogue', o.dialogue],
      ] as const) {
        if (text?.includes('\uFFFD'))
          throw invalid(
            name,
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
      const { graphs, say, ...where } = chosen(o)
      const folder = await located(o.model, o)
      await checkFits(await questionOf({ ...o, model: folder }, maxTokens), where)
      const { signal, done } = interruptible()
      const model = await openModel(folder, { ...where, adapter: o.adapter })
      say(model.checkpoint)
      try {
        const question = { ...clip, prompt: o.prompt, dialogue: o.dialogue }
        for await (const piece of model.ask(question, { maxTokens, timeout, graphs, signal }))
          process.stdout.write(piece)
        process.stdout.write('\n')
      } finally {
        done()
        model.dispose()
      }
    })
}

/** The question as its footprint knows it. */
async function questionOf({ model, adapter, prompt, dialogue }: Options, maxTokens: number): Promise<Asked> {
  const outline = await outlineOf(model)
  const texts = { ...(await openTexts(model, outline.config)), model: { config: outline.config } }
  const frames = adapter === undefined ? 4 : (await readAdapterInfo(adapter)).config.frames
  const encoded = encode(texts, imageTextConfig(texts, frames), { prompt, qformerText: dialogue })
  return askingOf(outline, {
    frames,
    qformerTokens: encoded.qformer?.length ?? 0,
    promptTokens: encoded.prompt.length,
    answerTokens: maxTokens,
  })
}
