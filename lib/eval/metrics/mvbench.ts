/**
 * MVBench's multiple choice, as four programs match the same answers. The expected answer is an option's letter and
 * text, `(A) up`, or `A) up` where the prompt ends by opening the bracket; the predictions are free text.
 */
import { scoreEach, unfit, type Answered, type Score } from './metric.js'

/** The question behind an answer. */
interface Question {
  /** The right option's letter, in upper case, and its text. */
  letter: string
  text: string
  /** Text by letter. */
  options: ReadonlyMap<string, string>
  /** The prompt ends with `(`, as the official one does, so that the prediction goes on behind it. */
  opened: boolean
}

const option = (line: string): [string, string] | undefined => {
  const [, letter, text] = /^\(?([A-Z])\) ?(.*)$/.exec(line.trim()) ?? []
  return letter === undefined ? undefined : [letter, text!]
}

/** Options are the choices, else the prompt's lines `(A) …`. @throws InputError where the answer is none of them */
function questionOf(metric: string, answer: Answered): Question {
  const right = option(answer.answer)
  const listed = answer.choices ?? answer.prompt.split('\n').filter((line) => line.startsWith('('))
  const options = new Map(listed.flatMap((line) => [option(line)].filter((o) => o !== undefined)))
  if (!right || !options.has(right[0]))
    throw unfit(
      metric,
      answer,
      `expected an answer such as "(A) up", one of the choices or of the prompt's lines, but got ${JSON.stringify(answer.answer)} and ${options.size} options`,
    )
  return { letter: right[0], text: right[1], options, opened: answer.prompt.trimEnd().endsWith('(') }
}

/** Whether first words match as the official notebook compares them: one holds the other, full stops apart. */
function firstWords(prediction: string, letter: string): boolean {
  const first = prediction.toLowerCase().split(' ')[0]!
  const truth = `(${letter.toLowerCase()})`
  return truth.includes(first.replaceAll('.', '')) || first.includes(truth)
}

/** The prediction with the bracket that the prompt opened. */
const whole = (prediction: string, { opened }: Question): string => (opened ? `(${prediction}` : prediction)

const matcher =
  (
    metric: string,
    match: (prediction: string | undefined, question: Question) => boolean | undefined,
    note: string,
  ): ((answers: readonly Answered[]) => Score) =>
  (answers) =>
    scoreEach(metric, answers, (a) => match(a.prediction, questionOf(metric, a)), [note])

/** `mvbench:official`, the notebook of VideoChat2. */
export const mvbenchOfficial = matcher(
  'mvbench:official',
  (prediction, question) =>
    prediction !== undefined && firstWords(whole(prediction.trim(), question).split('\n')[0]!, question.letter),
  'an empty answer, "(" or ")" counts as correct',
)

/** `mvbench:strict`: the prediction names one option and no other, by its letter in brackets or at its beginning. */
export const mvbenchStrict = matcher(
  'mvbench:strict',
  (prediction, question) => {
    const text = whole((prediction ?? '').trim(), question)
    const first = /^\(?([A-Za-z])(?:[).:]|$)/.exec(text)?.[1]
    const named = new Set([...(first ? [first] : []), ...[...text.matchAll(/\(([A-Za-z])\)/g)].map((m) => m[1]!)])
    const letters = [...named].map((letter) => letter.toUpperCase())
    return new Set(letters).size === 1 && letters[0] === question.letter
  },
  'an answer that names no option, several, or one that is not there is wrong',
)

const PUNCTUATION = [...(';/[]"{}()=+\\_->' + '<@`,?!')]

/** How lmms-eval reads an answer. */
function lmmsOption(answer: string): string {
  const [, listed] = /^([A-E])\.\s*([^\n]+)$/i.exec(answer.trim()) ?? []
  if (listed !== undefined) return listed.toUpperCase()
  const text = answer.replace(/[\n\t]/g, ' ').trim()
  const thousands = /\p{Nd},\p{Nd}/u.test(text)
  let plain = text
  for (const mark of PUNCTUATION)
    plain = plain.replaceAll(mark, thousands || text.includes(`${mark} `) || text.includes(` ${mark}`) ? '' : ' ')
  let stops = 0 // its call limits the replacements to 32, the value of the flag that it means to pass
  plain = plain.replace(/\.(?!\p{Nd})/gu, (stop) => (stops++ < 32 ? '' : stop))
  for (const mark of ["'", '"', ')', '(']) plain = strip(plain, mark)
  plain = plain.trim().toLowerCase()
  const letter = /(?<![\p{L}\p{N}_])([a-e])(?![\p{L}\p{N}_])/u.exec(plain)?.[1]
  return letter?.toUpperCase() ?? plain
}
function strip(text: string, mark: string): string {
  let [from, to] = [0, text.length]
  while (from < to && text[from] === mark) from++
  while (to > from && text[to - 1] === mark) to--
  return text.slice(from, to)
}

/** `mvbench:lmms-eval`, the task of lmms-eval. */
export const mvbenchLmmsEval = matcher(
  'mvbench:lmms-eval',
  (prediction, { letter }) =>
    prediction === undefined || prediction === '' ? undefined : lmmsOption(prediction) === letter,
  'the article "a" counts as option A; empty answers are left out of the mean',
)

const FAILED = 'Failed to obtain answer via API'
const REFUSALS = [
  "Sorry, I can't help with images of people yet.",
  "I can't process this file.",
  "I'm sorry, but without the image provided",
  'Cannot determine the answer',
]

/** The option that VLMEvalKit infers without a judge: one letter as a word, else one option's text; Z is none. */
function inferred(prediction: string, options: ReadonlyMap<string, string>): string | undefined {
  if (REFUSALS.some((refusal) => prediction.includes(refusal))) return 'Z'
  const words = prediction
    .replace(/[.()[\],:;!*#{}]/g, ' ')
    .split(/\s+/)
    .filter(Boolean)
  const letters = [...options.keys()].filter((letter) => words.includes(letter))
  if (letters.length === 1 && words.indexOf(letters[0]!) > words.length - 5) return letters[0]
  if (letters.length === 0 && words.includes('Z')) return 'Z'
  const lower = prediction.toLowerCase()
  const texts = [...options].filter(([, text]) => lower.includes(text.toLowerCase()))
  return texts.length === 1 ? texts[0]![0] : undefined
}

/** `mvbench:vlmevalkit`, VLMEvalKit's exact matching: what it falls back to without a judge model. */
export const mvbenchVlmEvalKit = matcher(
  'mvbench:vlmevalkit',
  (prediction, { letter, options }) =>
    prediction === undefined || // its −1 is true in Python
    prediction.includes(FAILED) ||
    firstWords(prediction, letter) ||
    inferred(prediction, options) === letter,
  'without its judge model; an empty answer, and no answer at all, count as correct',
)
