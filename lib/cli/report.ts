/** `mtransllama report RUN`: a training run as one page. */
import type { Command } from 'commander'
import { writeReport } from '../report/page.js'
import { readRun } from '../report/run.js'
import { readTrainConfig } from '../train/config.js'
import { evaluateRun } from '../train/report.js'
import { Bar, chosen, computes, interruptible, type Computes } from './common.js'

interface Options extends Computes {
  compare?: string[]
  output?: string
  evaluate?: string | true
}

export function register(program: Command): void {
  computes(program.command('report <run>'))
    .description('write a page about a training run: curves, validations, routers, answers, configuration')
    .option('--compare <runs...>', 'other runs to compare with')
    .option('--output <file>', 'where the page goes; default: report.html in the run')
    .option(
      '--evaluate [config]',
      "first answer the run's samples anew with its best adapter, where they were not recorded; with a configuration where the run has no run.json",
    )
    .action(async (run: string, { compare, output, evaluate, ...o }: Options) => {
      await readRun(run)
      if (evaluate !== undefined) {
        const config = typeof evaluate === 'string' ? await readTrainConfig(evaluate) : undefined
        const { signal, done } = interruptible()
        let bar: Bar | undefined
        try {
          const { say, ...where } = chosen(o)
          await evaluateRun(run, {
            ...where,
            config,
            signal,
            onAnswer(ready, of) {
              ;(bar ??= new Bar('answers', of)).update(ready)
            },
          })
        } finally {
          bar?.stop()
          done()
        }
      }
      const { path, gaps } = await writeReport(run, { compare, output })
      for (const gap of gaps) console.error(`mtransllama: ${gap}`)
      console.log(path)
    })
}
