/** `mtransllama validate CONFIG`: what can be said of a run without weights and without decoding a clip. */
import type { Command } from 'commander'
import { show } from '../errors.js'
import { textTable } from '../report/table.js'
import { validate, type SplitReport } from '../train/validate.js'
import { configured, fromHub, type FromHub } from './common.js'

/** Texts that are shown as cut, of each split. */
const SHOWN = 5

export function register(program: Command): void {
  fromHub(program.command('validate <config>'))
    .description('check a training configuration, its model and its manifests, without reading weights or clips')
    .action(async (path: string, from: FromHub) => {
      const config = await configured(path, from)
      const { splits, steps, problems, warnings } = await validate(config)
      if (splits.length)
        console.log(
          textTable([
            ['split', 'samples', 'clips', 'longest Q-Former text', 'longest prompt', 'longest answer', 'cut'],
            ...splits.map((s) => [
              s.name,
              String(s.samples),
              String(s.clips),
              ...[s.longest.qformer, s.longest.prompt, s.longest.answer].map((n) => `${n} tokens`),
              String(s.cuts.length),
            ]),
          ]),
        )
      if (steps) console.log(`${steps} steps an epoch, ${steps * config.train.epochs} in all`)
      for (const split of splits) for (const line of cutLines(split)) console.log(line)
      for (const warning of warnings) console.error(`warning: ${warning}`)
      for (const problem of problems) console.error(`problem: ${problem}`)
      console.log(problems.length ? `${problems.length} problems: training would not start` : 'training would start')
      if (problems.length) process.exitCode = 1
    })
}

function cutLines({ cuts, name }: SplitReport): string[] {
  return [
    ...cuts
      .slice(0, SHOWN)
      .map((c) => `${c.sample}: the ${c.text} text has ${c.tokens} tokens of ${c.limit}; cut off: ${show(c.lost)}`),
    ...(cuts.length > SHOWN ? [`and ${cuts.length - SHOWN} more ${name} texts`] : []),
  ]
}
