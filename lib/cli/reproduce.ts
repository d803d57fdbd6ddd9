/** `mtransllama reproduce NAME`: an experiment of the paper, from the published files to its table. */
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import type { Command } from 'commander'
import { invalid } from '../errors.js'
import { EXPERIMENTS, TINY_WORLD, VARIANTS } from '../reproduce/experiments.js'
import { readSettings } from '../reproduce/recipes.js'
import { reproduce, STUDY_VARIANTS } from '../reproduce/reproduce.js'
import { TINY_MODEL } from '../reproduce/study.js'
import { openModel } from '../session/model.js'
import { Bar, chosen, computes, count, fromHub, interruptible, located, type Computes, type FromHub } from './common.js'

interface Options extends Computes, FromHub {
  source?: string
  videos?: string
  trainSource?: string
  model?: string
  out?: string
  splitting?: string
  folds?: boolean
  trainLimit?: string
  prompts?: string
  promptFile?: string
  ablations?: boolean
  modalities?: boolean
  choices?: boolean
  variants?: string[]
  seeds: string
  settings?: string
  curves: boolean
  finished?: boolean
  wordnet?: string
  meteor?: string
  ptb?: string
  java: string
}

/** The variants that the options ask for, each once. */
function variantsOf(name: string, { ablations, modalities, choices, variants = [] }: Options): string[] {
  const asked = [
    ...(ablations ? (name === TINY_WORLD ? STUDY_VARIANTS : VARIANTS.ablations) : []),
    ...(modalities ? VARIANTS.modalities : []),
    ...(choices ? VARIANTS.choices : []),
    ...variants,
  ]
  return [...new Set(asked)].filter((variant) => variant !== 'full')
}

export function register(program: Command): void {
  fromHub(computes(program.command('reproduce <experiment>')))
    .description(
      `an experiment from the published files to its report: ${EXPERIMENTS.map((e) => e.name).join(', ')}; or ${TINY_WORLD}, on generated clips. The same command goes on where it was stopped`,
    )
    .option('--source <dir>', `folder with the published files; of ${TINY_WORLD}, with its rendered sets`)
    .option('--videos <dir>', 'folder with the videos; default: the source')
    .option('--train-source <dir>', 'of mvbench: the files of CLEVRER-MC; default: the source')
    .option('--model <dir>', `image model; of ${TINY_WORLD}, the one in the repository`)
    .option('--out <dir>', 'folder for data, features, runs and report; default: reproduced/EXPERIMENT')
    .option('--splitting <name>', 'how the data are split, as in prepare')
    .option('--folds', 'every fold; else the first')
    .option('--train-limit <n>', 'at most so many samples to train on, the first ones')
    .option('--prompts <name>', 'a set of prompts, as in prepare')
    .option('--prompt-file <file>', 'sets of prompts instead of the own ones')
    .option('--ablations', "the rows of the paper's Table VII, and joint attention")
    .option('--modalities', 'video alone, and text alone')
    .option('--choices', `what the paper leaves open: ${VARIANTS.choices.join(', ')}`)
    .option('--variants <names...>', 'variants by the names of their recipes')
    .option('--seeds <n>', 'runs of each variant, with seeds from 0', '1')
    .option('--settings <file>', 'YAML laid over the recipe, such as train: { epochs: 5 }')
    .option('--no-curves', `of ${TINY_WORLD}: no runs on fewer clips`)
    .option('--finished', 'report on the runs that have a result, and do no other')
    .option('--wordnet <dir>', "WordNet 3.0 for meteor:nltk3.7; default: where Debian's wordnet-base has it")
    .option('--meteor <jar>', 'the jar of METEOR 1.5')
    .option('--ptb <jar>', "Stanford CoreNLP 3.4.1, for the exact words of COCO's metrics")
    .option('--java <command>', 'what runs the jars', 'java')
    .action(async (name: string, o: Options) => {
      const [seeds, limit] = [
        count('--seeds', o.seeds),
        o.trainLimit === undefined ? undefined : count('--train-limit', o.trainLimit),
      ]
      const settings = o.settings === undefined ? {} : await readSettings(o.settings)
      const given = o.model ?? (name === TINY_WORLD && existsSync(TINY_MODEL) ? TINY_MODEL : undefined)
      if (given === undefined) throw invalid('--model', 'the image model', new Error('nothing'))
      const { say, graphs, ...where } = chosen(o)
      const model = await openModel(await located(given, o), where)
      say(model.checkpoint)
      const { signal, done } = interruptible('stopping; the same command goes on from here')
      let bar: Bar | undefined
      let shown = ''
      const progress = (what: string, value: number, total: number, details = '', payload = {}): void => {
        if (shown !== what) {
          bar?.stop()
          bar = new Bar(what, total, details)
          shown = what
        }
        bar!.update(value, payload)
      }
      let run = ''
      try {
        const { wordnet, meteor, ptb, java } = o
        const written = await reproduce(name, {
          out: o.out ?? join('reproduced', name),
          model,
          data: {
            ...(o.source !== undefined && { source: o.source }),
            videos: o.videos,
            trainSource: o.trainSource,
            splitting: o.splitting,
            folds: o.folds,
            trainLimit: limit,
            prompts: o.prompts,
            promptFile: o.promptFile,
          },
          variants: variantsOf(name, o),
          seeds,
          settings,
          curves: o.curves,
          finished: o.finished,
          tools: { wordnet, meteor, ptb, java },
          graphs,
          signal,
          onClips: (ready, total) => progress('clips', ready, total),
          onRun: ({ name: at, at: place, of }) => {
            bar?.stop()
            run = at
            console.log(`run ${place + 1} of ${of}: ${at}`)
          },
          onStep: (e) => progress(`${run}, steps`, e.step, e.steps, 'loss {loss}', { loss: e.loss.toFixed(4) }),
          onAnswer: (answered, total) => progress(`${run}, answers`, answered, total),
          onNotice: (sentence) => console.error(`\nmtransllama: ${sentence}`),
        })
        bar?.stop()
        console.log(`report: ${written.page} and ${written.json}`)
      } finally {
        bar?.stop()
        done()
        model.dispose()
      }
    })
}
