/** `mtransllama show-batch CONFIG`: what each tower reads of the samples of a step. */
import type { Command } from 'commander'
import { showBatch, type ShownSample } from '../train/show-batch.js'
import { openTextSide } from '../train/validate.js'
import { configured, count, fromHub, type FromHub } from './common.js'

export function register(program: Command): void {
  fromHub(program.command('show-batch <config>'))
    .description('show what the model reads of the samples of one step: frames by time, both texts, and the labels')
    .option('--epoch <number>', 'epoch, from 1', '1')
    .option('--step <number>', 'step of the epoch, from 1', '1')
    .action(async (path: string, o: { epoch: string; step: string } & FromHub) => {
      const config = await configured(path, o)
      const at = { epoch: count('--epoch', o.epoch), step: count('--step', o.step) }
      const batches = await showBatch(config, await openTextSide(config), at)
      for (const [i, samples] of batches.entries()) {
        console.log(`micro-batch ${i + 1} of ${batches.length}`)
        for (const sample of samples) console.log(shown(sample))
      }
    })
}

function shown({ id, video, times, qformer, visual, tokens, labels, padding }: ShownSample): string {
  const text = tokens.map((t, i) => (labels[i] ? `[${t}]` : t)).join(' ')
  return [
    `sample ${JSON.stringify(id)}`,
    `  clip            ${video}`,
    `  frames          ${times.map((t) => `${t.toFixed(2)} s`).join(', ')}`,
    `  Q-Former        ${qformer ? qformer.join(' ') : '(no text)'}`,
    `  language model  (${visual} visual tokens) ${text}${padding ? ` (${padding} of padding)` : ''}`,
    `  counted in loss ${tokens.filter((_, i) => labels[i]).join(' ')}`,
  ].join('\n')
}
