/** The metrics by name, and what each of them needs. */
import { InputError, nearest, show } from '../../errors.js'
import { accuracyScore, exactScore } from './classes.js'
import { cocoTokens } from './coco-tokens.js'
import { referencesOf, type Answered, type Score } from './metric.js'
import { meteorJar } from './meteor-jar.js'
import { meteorNltk } from './meteor-nltk.js'
import { mvbenchLmmsEval, mvbenchOfficial, mvbenchStrict, mvbenchVlmEvalKit } from './mvbench.js'
import { rougeCoco, rougeGoogle } from './rouge.js'
import { WordNet } from './wordnet.js'

/** Programs and data of others that some metrics need. */
export interface Tools {
  /** Folder of WordNet 3.0. Default: where Debian has it. */
  wordnet?: string | undefined
  /** The jar of METEOR 1.5. */
  meteor?: string | undefined
  /** The jar of Stanford CoreNLP 3.4.1; without it COCO's metrics use tokens of our own and say so in their name. */
  ptb?: string | undefined
  /** The command that runs jars. Default `java`. */
  java?: string | undefined
}

const PLAIN: Record<string, (answers: readonly Answered[]) => Score> = {
  accuracy: accuracyScore,
  exact: exactScore,
  'rougeL:google': rougeGoogle,
  'mvbench:official': mvbenchOfficial,
  'mvbench:strict': mvbenchStrict,
  'mvbench:lmms-eval': mvbenchLmmsEval,
  'mvbench:vlmevalkit': mvbenchVlmEvalKit,
}
const COCO = ['rougeL:coco', 'meteor:1.5', 'meteor:1.5/mean-of-videos']

/** Every metric that is one figure; a group of them by the part before the colon: `mvbench`. */
export const METRICS: readonly string[] = [...Object.keys(PLAIN), 'meteor:nltk3.7', ...COCO]

/** The names that a list of names stands for. @throws InputError for an unknown one */
export function metricNames(asked: readonly string[]): string[] {
  const names = asked.flatMap((name) => {
    const found = METRICS.includes(name) ? [name] : METRICS.filter((metric) => metric.startsWith(`${name}:`))
    if (found.length) return found
    const near = nearest(name, METRICS)
    throw new InputError(
      `--metrics: there is no metric named ${show(name)}; ${near ? `did you mean ${near}?` : `known are ${METRICS.join(', ')}.`}`,
    )
  })
  return [...new Set(names)]
}

/** Checks that the tools of metrics are there, before anything is predicted. @throws InputError where one is not */
export function checkTools(names: readonly string[], { wordnet, meteor }: Tools): void {
  if (names.includes('meteor:nltk3.7')) WordNet.open(wordnet)
  if (meteor === undefined && names.some((name) => name.startsWith('meteor:1.5')))
    throw new InputError(
      '--metrics: meteor:1.5 is computed by its own jar; give it with --meteor, and Java with --java.',
    )
}

/**
 * Computes metrics, in the order of their names.
 *
 * @throws InputError where a metric cannot read an answer, or its tool is not there
 */
export async function computeMetrics(
  names: readonly string[],
  answers: readonly Answered[],
  tools: Tools = {},
): Promise<Score[]> {
  const { wordnet, meteor, ptb, java } = tools
  checkTools(names, tools)
  const scores = new Map<string, Score>()
  for (const name of names) {
    if (name in PLAIN) scores.set(name, PLAIN[name]!(answers))
    if (name === 'meteor:nltk3.7') scores.set(name, meteorNltk(answers, WordNet.open(wordnet)))
  }
  const coco = names.filter((name) => COCO.includes(name))
  if (coco.length) {
    const texts = answers.map((a) => [a.prediction ?? '', ...referencesOf(a)])
    const { texts: tokens, suffix } = await cocoTokens(texts.flat(), ptb, java)
    const rest = [...tokens]
    const parts = texts.map(({ length }) => rest.splice(0, length))
    const [predicted, expected] = [parts.map(([first]) => first!), parts.map((part) => part.slice(1))]
    const notes = suffix ? ['tokens of our own, not of Stanford CoreNLP 3.4.1 (--ptb)'] : []
    const named = (name: string): string | undefined => (coco.includes(name) ? `${name}${suffix}` : undefined)
    const rouge = named('rougeL:coco')
    if (rouge !== undefined) scores.set('rougeL:coco', rougeCoco(rouge, predicted, expected, notes))
    const [corpus, mean] = [named('meteor:1.5'), named('meteor:1.5/mean-of-videos')]
    if (meteor !== undefined && (corpus !== undefined || mean !== undefined)) {
      const asked = { ...(corpus !== undefined && { corpus }), ...(mean !== undefined && { videos: mean }) }
      const given = { jar: meteor, java }
      const videos = answers.map((a) => a.video)
      for (const score of await meteorJar(asked, predicted, expected, videos, given))
        scores.set(score.metric === corpus ? 'meteor:1.5' : 'meteor:1.5/mean-of-videos', {
          ...score,
          notes: [...score.notes, ...notes],
        })
    }
  }
  return names.flatMap((name) => scores.get(name) ?? [])
}
