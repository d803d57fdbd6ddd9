/** `mtransllama check-data CONFIG`: decodes every frame that a run would take. */
import { join, resolve } from 'node:path'
import type { Command } from 'commander'
import { InputError } from '../errors.js'
import { checkData } from '../train/check-data.js'
import { Bar, configured, fromHub, interruptible, type FromHub } from './common.js'

export function register(program: Command): void {
  fromHub(program.command('check-data <config>'))
    .description('decode every frame that a training run would take, each clip within a time limit; can be continued')
    .option('--output <file>', 'file of results, continued where it is there (default: check-data.jsonl in the output)')
    .action(async (path: string, { output, ...from }: { output?: string } & FromHub) => {
      const config = await configured(path, from)
      const file = output === undefined ? join(config.output, 'check-data.jsonl') : resolve(output)
      const { signal, done } = interruptible(`stopping; what is checked is in ${file}`)
      let bar: Bar | undefined
      try {
        let known = 0
        const clips = await checkData(config, {
          file,
          signal,
          onClip(_, ready, total, before) {
            known += Number(before)
            ;(bar ??= new Bar('clips', total)).update(ready)
          },
        })
        bar?.stop()
        const bad = clips.filter((c) => c.error !== undefined)
        for (const { error, sample } of bad) console.error(error!.startsWith(sample) ? error : `${sample}: ${error}`)
        console.log(
          `${clips.length} clips: ${clips.length - bad.length} can be used${known ? `, ${known} known from ${file}` : ''}`,
        )
        const samples = bad.reduce((n, c) => n + c.samples, 0)
        if (bad.length)
          throw new InputError(
            `data: ${bad.length} clips of ${samples} samples cannot be used; repair them, or allow train.maxSkipped: ${samples}.`,
          )
      } finally {
        bar?.stop()
        done()
      }
    })
}
