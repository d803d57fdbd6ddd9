/** `mtransllama train CONFIG.yaml` */
import { resolve } from 'node:path'
import type { Command } from 'commander'
import { countTrained } from '../adapter/parameters.js'
import { invalid } from '../errors.js'
import { placeText } from '../train/bad-steps.js'
import type { TrainConfig } from '../train/config.js'
import { train, type TrainEvents, type TrainResult } from '../train/loop.js'
import { textTable } from '../report/table.js'
import type { Ranks } from '../ranks/ranks.js'
import {
  Bar,
  chosen,
  computes,
  configured,
  fromHub,
  interruptible,
  memoryText,
  percent,
  type Chosen,
  type Computes,
  type FromHub,
} from './common.js'
import { ofRank, onDevices, parallels, together, type Parallel } from './parallel.js'
import { checkFits, runOf } from './plan.js'
import { profilePath, writeProfile } from './profile.js'

interface Options extends Computes, FromHub, Parallel {
  devices?: string
  output?: string
  resume?: boolean | string
  extend?: boolean
  rescale?: boolean
  verify?: boolean
  profile?: string
}

export function register(program: Command): void {
  parallels(fromHub(computes(program.command('train <config>'))))
    .description('train an adapter by a YAML configuration')
    .option('--output <dir>', 'output folder, in place of the one in the file')
    .option(
      '--profile <file>',
      'time steps 3 to 12 of the first epoch (all of a shorter one) by operator: a table, and a Chrome trace in the file',
    )
    .option('--resume [save]', 'resume the run in the output folder: its last save, or one such as step-120')
    .option('--verify', 'compare the content of videos with that of cached features, which reads them whole')
    .option('--extend', 'with --resume: train.epochs may be more than it was')
    .option('--rescale', 'with --resume: as many processes as before need not compute it')
    .option('--devices <list>', 'several devices that compute each batch together, such as cuda:0,cuda:1')
    .action((path: string, options: Options) =>
      options.devices === undefined
        ? together(options.parallel, (ranks) => run(path, options, ranks))
        : onDevices(options, (ranks, device) => run(path, { ...options, device }, ranks)),
    )
}

/** Trains as one of the ranks; the first one says what happens. */
async function run(
  path: string,
  { output, resume = false, extend = false, rescale = false, verify = false, profile, ...o }: Options,
  ranks: Ranks,
): Promise<void> {
  for (const [name, given] of Object.entries({ extend, rescale }))
    if (given && resume === false) throw invalid(`--${name}`, 'with --resume alone', new Error('no --resume'))
  const config = { ...(await configured(path, o)), ...(output !== undefined && { output: resolve(output) }) }
  const trace = profile === undefined ? undefined : await profilePath(profile)
  const { signal, done } = interruptible('stopping after this step and saving', ranks.first)
  const where = chosen(ofRank(o))
  const asked = await runOf(config)
  await ranks.inTurn(() => checkFits(asked, where))
  const shown = reporter(config, where, trace)
  try {
    const result = await train(config, {
      signal,
      resume,
      extend,
      rescale,
      verify,
      ranks,
      ...where,
      ...(!ranks.first && { onLoad: undefined }),
      ...(ranks.first ? shown.events : { onNotice: (s) => console.error(`mtransllama: rank ${ranks.rank}: ${s}`) }),
    })
    if (ranks.first) shown.ended(result)
  } finally {
    shown.stop()
    done()
  }
}

/** What a run prints: its events, its end; `stop` takes the bar away. */
function reporter(
  config: TrainConfig,
  where: Chosen,
  trace: string | undefined,
): { events: TrainEvents; ended(result: TrainResult): void; stop(): void } {
  let bar: Bar | undefined
  let tokens = 0
  // Seconds of the epoch's steps, and those that they waited for data.
  let [seconds, waited] = [0, 0]
  let skipped = 0
  const next = (what: string, total: number, details = ''): Bar => {
    bar?.stop()
    return (bar = new Bar(what, total, details))
  }
  let clips: Bar | undefined
  let epoch = 0
  const events: TrainEvents = {
    onStart({ counts, samples, steps, adapter, model }) {
      where.say(model.checkpoint)
      const rows = [
        ['trained', 'tensors', 'parameters'],
        ...counts.map((c) => [c.group, String(c.tensors), c.parameters.toLocaleString('en')]),
      ]
      console.log(
        textTable([
          ...rows,
          [
            'total',
            String(counts.reduce((n, c) => n + c.tensors, 0)),
            countTrained(adapter.trained()).toLocaleString('en'),
          ],
        ]),
      )
      console.log(`${samples} samples, ${config.train.epochs} epochs, ${steps} steps; writing to ${config.output}`)
    },
    onFeatures(ready, total) {
      ;(clips ??= next('clips', total)).update(ready)
    },
    onStep(e) {
      if (e.epoch !== epoch) {
        epoch = e.epoch
        tokens = 0
        next(
          `epoch ${epoch}`,
          e.steps / config.train.epochs,
          'loss {loss} | {speed} tokens/s | waiting {waiting} | {memory}',
        )
      }
      tokens += e.tokens
      seconds += e.seconds
      waited += e.waited
      const within = e.step - ((epoch - 1) * e.steps) / config.train.epochs
      bar!.update(within, {
        loss: e.loss.toFixed(4),
        speed: (tokens / bar!.seconds).toFixed(0),
        waiting: percent(waited / seconds),
        memory: memoryText(),
      })
      if (e.spike !== undefined)
        console.error(
          `\nstep ${e.step}: the loss ${e.loss.toFixed(4)} stands out (robust z ${e.spike.toFixed(1)}); samples ${e.samples!.join(', ')}`,
        )
      if (e.bad === undefined) return
      skipped++
      console.error(`\nstep ${e.step} skipped: ${e.bad} is not finite${e.place ? `, first ${placeText(e.place)}` : ''}`)
    },
    onNotice(sentence) {
      console.error(`\nmtransllama: ${sentence}`)
    },
    onValidation(e) {
      bar?.stop()
      epoch = 0 // the next step starts the bar again
      console.log(
        `step ${e.step}: ${e.accuracy === undefined ? `loss ${e.loss.toFixed(4)}` : `validation ${percent(e.accuracy)}`}${e.best ? ' (best so far)' : ''}`,
      )
    },
    onEpoch(e) {
      bar?.stop()
      const loss = Number.isFinite(e.loss) ? `loss ${e.loss.toFixed(4)}` : 'no step was finite'
      const score = e.accuracy === undefined ? '' : `, validation ${percent(e.accuracy)}`
      const waiting = seconds ? `; waited for data ${percent(waited / seconds)} of the time` : ''
      console.log(`epoch ${e.epoch}: ${loss}${score}${e.best ? ' (best so far)' : ''}${waiting}`)
      seconds = waited = 0
      if (e.notFinite !== undefined)
        console.error(`epoch ${e.epoch}: ${e.notFinite} is not finite; the last saved adapter is kept`)
    },
    ...(trace !== undefined && {
      async onProfile(p) {
        bar?.stop()
        epoch = 0 // the next step starts the bar again
        console.log(await writeProfile(trace, p))
        if (p.rows().some((r) => r.operator === 'graph'))
          console.log('a graph is one event; --no-graphs shows its operators')
      },
    }),
  }
  const ended = (result: TrainResult): void => {
    if (result.skipped.length)
      console.error(`${result.skipped.length} samples were left out, since their clips cannot be used`)
    if (result.early)
      console.log(`ended after epoch ${result.epochs.length}: ${config.train.patience} validations brought no new best`)
    if (skipped) console.error(`${skipped} of the steps were skipped, since they were not finite`)
    console.log(`best adapter: ${result.best}\nlast adapter: ${result.last}`)
  }
  return { events, ended, stop: () => bar?.stop() }
}
