// Metrics against worked cases: published examples of their sources where there are any, else figures by hand.
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { chmodSync, existsSync, mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { InputError } from '../../lib/errors.js'
import { accuracyScore, binaryScore, exactScore } from '../../lib/eval/metrics/classes.js'
import { bootstrap, paired } from '../../lib/eval/metrics/intervals.js'
import { meanScore, type Answered } from '../../lib/eval/metrics/metric.js'
import { meteor } from '../../lib/eval/metrics/meteor-nltk.js'
import { computeMetrics, metricNames, METRICS } from '../../lib/eval/metrics/metrics.js'
import { stem } from '../../lib/eval/metrics/porter.js'
import { rougeCoco } from '../../lib/eval/metrics/rouge.js'
import { WORDNET, WordNet } from '../../lib/eval/metrics/wordnet.js'
import { temporaryFolder } from '../support/tiny.js'

const near = (a: number, b: number): void => assert.ok(Math.abs(a - b) < 1e-12, `${a}, expected ${b}`)
const one = (prediction: string | undefined, answer: string, more: Partial<Answered> = {}): Answered => ({
  id: '1',
  prompt: '?',
  answer,
  prediction,
  video: 'v',
  ...more,
})
async function failure(act: () => unknown): Promise<string> {
  try {
    await act()
  } catch (error) {
    assert.instance(error, InputError)
    return (error as Error).message
  }
  return assert.unreachable('nothing was thrown') as never
}

test('accuracy forgives case, space and a full stop; exact match forgives nothing', () => {
  const answers = [one('Up.', 'up'), one('up', 'up'), one('a pan', 'the pan'), one(undefined, 'up')]
  assert.equal(accuracyScore(answers).items, [1, 1, 0, 0])
  assert.equal(exactScore(answers).items, [0, 1, 0, 0])
  near(accuracyScore(answers).value, 0.5)
})

test('two classes: precision, recall and F1 of both, macro and weighted, with the positive class named', () => {
  // 4 yes, 2 no expected: 3 yes found, 1 no said yes, one answer names neither, one is found by its word.
  const labels = { choices: ['yes', 'no'] }
  const answers = ['yes', 'Yes.', 'It is yes, I think', 'perhaps', 'yes', 'no'].map((prediction, i) =>
    one(prediction, i < 4 ? 'yes' : 'no', labels),
  )
  const { positive, negative, macro, weighted, accuracy, unparsed } = binaryScore(answers, 'YES')
  assert.equal([positive.label, positive.support, negative.label, negative.support, unparsed], ['yes', 4, 'no', 2, 1])
  near(accuracy, 4 / 6)
  near(positive.precision, 3 / 4)
  near(positive.recall, 3 / 4)
  near(positive.f1, 3 / 4)
  near(negative.precision, 1)
  near(negative.recall, 1 / 2)
  near(negative.f1, 2 / 3)
  near(macro.f1, (3 / 4 + 2 / 3) / 2)
  near(weighted.f1, (4 * (3 / 4) + 2 * (2 / 3)) / 6)
  near(weighted.recall, (4 * (3 / 4) + 2 * (1 / 2)) / 6)
  const other = binaryScore(answers, 'no')
  assert.equal([other.positive, other.negative], [negative, positive])
  assert.is(binaryScore([one('yes and no', 'yes', labels)], 'yes').unparsed, 1)
})

test("Table VII's recall 64.8, precision 70.2 and accuracy 68.2 hold together for the class of 504 samples, not for that of 490", () => {
  const accuracyOf = (positives: number): number => {
    const found = Math.round(positives * 0.648)
    const taken = Math.round(found / 0.702) - found
    const answers = Array.from({ length: 994 }, (_, i) =>
      i < positives ? one(i < found ? 'a' : 'b', 'a') : one(i < positives + taken ? 'a' : 'b', 'b'),
    )
    const { positive, accuracy } = binaryScore(answers, 'a')
    assert.ok(Math.abs(positive.recall - 0.648) < 0.001 && Math.abs(positive.precision - 0.702) < 0.001)
    return accuracy
  }
  assert.is((100 * accuracyOf(504)).toFixed(1), '68.2')
  assert.is((100 * accuracyOf(490)).toFixed(1), '69.1')
})

test('one class, three classes and a label that is none are refused', async () => {
  assert.match(await failure(() => binaryScore([one('a', 'a')], 'a')), /^binary: expected answers of two classes/)
  assert.match(
    await failure(() => binaryScore([one('a', 'a'), one('b', 'b')], 'humour')),
    /^positiveLabel: expected "a" or "b", but got "humour"\.$/,
  )
})

test('rougeL:google: the example of its README, an empty side, several references', async () => {
  const of = async (...answers: Answered[]): Promise<readonly (number | undefined)[]> =>
    (await computeMetrics(['rougeL:google'], answers))[0]!.items
  const [a, b, c, d] = await of(
    one('The quick brown dog jumps on the log.', 'The quick brown fox jumps over the lazy dog'),
    one('testing', 'testing one two'),
    one('', 'a'),
    one("don't", 'a cat', { references: ['a cat', 'don t'] }),
  )
  near(a!, (2 * (5 / 8) * (5 / 9)) / (5 / 8 + 5 / 9))
  near(b!, 0.5)
  assert.is(c, 0)
  assert.is(d, 1)
})

test('rougeL:coco: β = 1.2, precision and recall each the best of any reference', () => {
  // P 2/3 and R 2/4 of the first, P 1/3 and R 1/1 of the second.
  const { items } = rougeCoco('rougeL:coco', ['cut the onion'], [['cut an onion fast', 'onion']])
  const [P, R] = [2 / 3, 1]
  near(items[0]!, ((1 + 1.44) * P * R) / (R + 1.44 * P))
  assert.equal(rougeCoco('rougeL:coco', ['a', ''], [['b'], ['']]).items, [0, 1])
})

test("coco's words: punctuation is dropped, contractions are split, brackets in lower case stay", async () => {
  const [score] = await computeMetrics(
    ['rougeL:coco'],
    [one('Don\'t add (hot) oil, it\'s "done"...', "do n't add -lrb- hot -rrb- oil it 's done")],
  )
  assert.is(score!.metric, 'rougeL:coco/own-tokens')
  assert.is(score!.value, 1)
  assert.match(score!.notes[0]!, /not of Stanford CoreNLP/)
})

test("stems are those of NLTK's documentation", () => {
  const words =
    'caresses flies dies mules denied died agreed owned humbled sized meeting stating siezing itemization sensational traditional reference colonizer plotted'
  const stems = 'caress fli die mule deni die agre own humbl size meet state siez item sensat tradit refer colon plot'
  assert.is(words.split(' ').map(stem).join(' '), stems)
  // Its changes of Porter's rules, and words of one or two letters.
  assert.equal(
    ['skies', 'enjoy', 'happy', 'archeology', 'fly', 'ties', 'rationally', 'is', 'eed', 'fall', 'controll'].map(stem),
    ['sky', 'enjoy', 'happi', 'archeolog', 'fli', 'tie', 'ration', 'is', 'eed', 'fall', 'control'],
  )
})

// A WordNet of six words, in the form of the published files.
function smallWordNet(): string {
  const folder = join(temporaryFolder('wordnet'), 'dict')
  mkdirSync(folder)
  const licence = '  1 This text stands where the licence is.  \n'
  const data = (part: string, ...meanings: string[][]): number[] => {
    let text = licence
    const places = meanings.map((words) => {
      const place = text.length
      const listed = words.map((word) => `${word} 0`).join(' ')
      text += `${String(place).padStart(8, '0')} 03 n ${words.length.toString(16).padStart(2, '0')} ${listed} 000 | a meaning  \n`
      return place
    })
    writeFileSync(join(folder, `data.${part}`), text)
    return places
  }
  const index = (part: string, lines: [string, number[]][], exceptions = ''): void => {
    const text = lines.map(
      ([word, places]) =>
        `${word} n ${places.length} 1 @ ${places.length} 0 ${places.map((p) => String(p).padStart(8, '0')).join(' ')}  `,
    )
    writeFileSync(join(folder, `index.${part}`), `${licence}${text.join('\n')}\n`)
    writeFileSync(join(folder, `${part}.exc`), exceptions)
  }
  const [pan, mouse] = data('noun', ['pan', 'saucepan', 'cooking_pan'], ['mouse', 'Rodent'])
  index(
    'noun',
    [
      ['pan', [pan!]],
      ['saucepan', [pan!]],
      ['mouse', [mouse!]],
    ],
    'mice mouse\n',
  )
  const [put] = data('verb', ['put', 'place', 'set'])
  index('verb', [
    ['put', [put!]],
    ['place', [put!]],
  ])
  for (const part of ['adj', 'adv']) {
    data(part, ['soon(a)'])
    index(part, [])
  }
  return folder
}

test('WordNet: synonyms of every part of speech by base forms and exceptions, single words, letters as written', async () => {
  const wordnet = WordNet.open(smallWordNet())
  assert.equal([...wordnet.synonyms('pans')], ['pan', 'saucepan'])
  assert.equal([...wordnet.synonyms('mice')], ['mouse', 'Rodent'])
  assert.equal([...wordnet.synonyms('placed')].sort(), ['place', 'put', 'set'])
  assert.equal([...wordnet.synonyms('oven')], [])
  assert.match(
    await failure(() => WordNet.open(temporaryFolder('empty'))),
    /expected the files of WordNet 3\.0, such as index\.noun, but got a folder without it; give the folder with --wordnet/,
  )
})

test('meteor:nltk3.7 by hand: exact words, stems, synonyms of stems, chunks, several references', async () => {
  const wordnet = smallWordNet()
  // put~place (synonym), the (exact), pans~pan (stem): 3 of 3 and 3 of 4 in one chunk.
  const m = (P: number, R: number, chunks: number, matches: number): number =>
    ((P * R) / (0.9 * P + 0.1 * R)) * (1 - 0.5 * (chunks / matches) ** 3)
  const [score] = await computeMetrics(
    ['meteor:nltk3.7'],
    [
      one('put the pans', 'place the pan down'),
      one('pan the put', 'put the pan'),
      one('none of it', 'place the pan'),
      one('oil', 'water', { references: ['water', 'oil'] }),
    ],
    { wordnet },
  )
  // "place" stems to "place": its synonyms hold "put". The second has three pairs in three chunks.
  near(score!.items[0]!, m(1, 3 / 4, 1, 3))
  near(score!.items[1]!, m(1, 1, 3, 3))
  assert.is(score!.items[2], 0)
  near(score!.items[3]!, 0.5)
})

test("meteor:nltk3.7 on NLTK's own example, with WordNet 3.0", () => {
  if (!existsSync(WORDNET)) return void console.log(`  skipped: ${WORDNET} is not there (Debian: wordnet-base)`)
  const wordnet = WordNet.open()
  const words = (text: string): string[] => text.split(' ')
  const hypothesis = 'It is a guide to action which ensures that the military always obeys the commands of the party'
  const reference = 'It is a guide to action that ensures that the military will forever heed Party commands'
  assert.is(meteor(words(hypothesis), words(reference), wordnet).toFixed(4), '0.6944')
  assert.is(meteor(words('non matching hypothesis'), words('this is a cat'), wordnet), 0)
  // What NLTK 3.10.3 computes with the same files; its example above gives 0.6944 there.
  for (const [hypothesis, reference, score] of [
    ['put the pans', 'place the pan down', 0.754985754985755],
    ['pan the put', 'put the pan', 0.5],
    ['on the table', 'on the desk', 0.625],
    ['he cuts onions quickly', 'the man is cutting an onion fast', 0.14925373134328357],
    ['children ran', 'the kids are running', 0.2631578947368421],
    ['the the pan', 'the pan the', 0.5],
    ['buy a car', 'purchase the automobile', 0.0],
    ['a big dog barked loudly at men', 'large dogs bark at the man', 0.5174180327868853],
  ] as const)
    near(meteor(words(hypothesis), words(reference), wordnet), score)
})

// What stands in for Java: it speaks the jar's protocol, and scores a segment by the share of its words in the first
// reference. A corpus is scored by the sums of its statistics, so that its value is not the mean of the segments.
function standIn(): string {
  const path = join(temporaryFolder('java'), 'java')
  writeFileSync(
    path,
    `#!${process.execPath}
const { readFileSync } = require('node:fs')
const args = process.argv.slice(2)
if (args[0] === '-cp') {
  const text = readFileSync(args.at(-1), 'utf8').toLowerCase()
  process.stdout.write(text.replace(/([.,!?])/g, ' $1'))
} else if (args.join(' ') === '-jar -Xmx2G meteor.jar - - -stdio -l en -norm') {
  require('node:readline').createInterface({ input: process.stdin }).on('line', (line) => {
    const [verb, ...parts] = line.split(' ||| ')
    if (verb === 'SCORE') {
      const [first, said] = [parts[0].split(' '), parts.at(-1).split(' ')]
      console.log(said.filter((word) => first.includes(word)).length + ' ' + said.length)
    } else {
      const pairs = parts.map((part) => part.split(' ').map(Number))
      for (const [hits, all] of pairs) console.log(hits / all)
      console.log(pairs.reduce((n, [hits]) => n + hits, 0) / pairs.reduce((n, [, all]) => n + all, 0))
    }
  })
} else {
  console.error('Error: Unable to access jarfile ' + args[2])
  process.exit(1)
}
`,
  )
  chmodSync(path, 0o755)
  return path
}

test('meteor:1.5 through its jar: the corpus value is the jar’s, the mean of videos another; errors in one sentence', async () => {
  const java = standIn()
  const answers = [
    one('cut the onion', 'Cut the onion!', { id: 'a', video: 'v1' }), // 3 of 3
    one('a b c d e ||| f', 'a', { id: 'b', video: 'v1' }), // 1 of 6
    one('stir it', 'Stir.', { id: 'c', video: 'v2' }), // 1 of 2
  ]
  const names = ['meteor:1.5', 'meteor:1.5/mean-of-videos']
  const [corpus, videos] = await computeMetrics(names, answers, { java, meteor: 'meteor.jar', ptb: 'corenlp.jar' })
  assert.equal([corpus!.metric, videos!.metric], names)
  assert.equal(corpus!.items, [1, 1 / 6, 1 / 2])
  near(corpus!.value, 5 / 11)
  near(videos!.value, (4 / 9 + 1 / 2) / 2)
  assert.is(bootstrap(corpus!, ['v1', 'v1', 'v2']), undefined, 'no interval of what is no mean')
  const own = await computeMetrics(['meteor:1.5'], answers, { java, meteor: 'meteor.jar' })
  assert.is(own[0]!.metric, 'meteor:1.5/own-tokens')
  assert.match(
    await failure(() => computeMetrics(['meteor:1.5'], answers)),
    /give it with --meteor, and Java with --java/,
  )
  assert.match(
    await failure(() => computeMetrics(['meteor:1.5'], answers, { java, meteor: 'no.jar' })),
    /^no\.jar: METEOR ended before it answered: Error: Unable to access jarfile no\.jar; it needs Java/,
  )
  assert.match(
    await failure(() => computeMetrics(['meteor:1.5'], answers, { java: '/no/java', meteor: 'meteor.jar' })),
    /^meteor\.jar: METEOR ended before it answered: spawn \/no\/java ENOENT/,
  )
  assert.match(
    await failure(() => computeMetrics(['rougeL:coco'], answers, { java: '/no/java', ptb: 'x.jar' })),
    /^x\.jar: its tokenizer could not be run with \/no\/java: /,
  )
})

test('MVBench: four programs, one file of predictions', async () => {
  const prompt = 'Question: Which way?\nOptions:\n(A) up\n(B) down\n(C) left\nOnly give the best option.'
  const cases: [string | undefined, official: number, strict: number, lmms: number | undefined, vlm: number][] = [
    ['(B) down', 1, 1, 1, 1],
    ['B', 1, 1, 1, 1],
    ['B.', 1, 1, 1, 1],
    ['b', 1, 1, 1, 1],
    ['(A) up', 0, 0, 0, 0],
    ['', 1, 0, undefined, 1], // the known flaw of the official one
    [')', 1, 0, 0, 1],
    ['(A) or (B)', 0, 0, 0, 0],
    ['The answer is B', 0, 0, 1, 1],
    ['It moves down', 0, 0, 0, 1], // the option's text
    ['It is a movement (B)', 0, 1, 0, 1], // the article is read as option A
    ['Failed to obtain answer via API.', 0, 0, 0, 1],
    [undefined, 0, 0, undefined, 1],
    ['(D) right', 0, 0, 0, 0],
  ]
  const answers = cases.map(([prediction], i) => one(prediction, '(B) down', { id: `${i}`, prompt }))
  const scores = await computeMetrics(metricNames(['mvbench']), answers)
  assert.equal(
    scores.map((s) => s.metric),
    ['mvbench:official', 'mvbench:strict', 'mvbench:lmms-eval', 'mvbench:vlmevalkit'],
  )
  const rows = cases.map(([prediction], i) => [prediction, ...scores.map((s) => s.items[i])])
  assert.equal(rows, cases as unknown[][])
  assert.equal(
    scores.map((s) => (100 * s.value).toFixed(1)),
    ['42.9', '35.7', '41.7', '78.6'],
  )
  // The official prompt opens the bracket, and what follows is the prediction.
  const opened = one('B) down\nSo (A) is wrong.', 'B) down', { prompt: `${prompt}\nBest option:(` })
  const [official, strict] = await computeMetrics(['mvbench:official', 'mvbench:strict'], [opened])
  assert.equal([official!.value, strict!.value], [1, 0])
  assert.match(
    await failure(() => computeMetrics(['mvbench:strict'], [one('B', 'down', { prompt })])),
    /^mvbench:strict, sample "1": expected an answer such as "\(A\) up".*but got "down" and 3 options\.$/,
  )
})

test('intervals draw whole groups: repeated questions about a video do not make a figure surer', () => {
  const items = Array.from({ length: 200 }, (_, i) => Number(i % 2 === 0))
  const alone = bootstrap(
    meanScore('m', items),
    items.map((_, i) => `${i}`),
  )!
  const grouped = bootstrap(
    meanScore('m', items),
    items.map((_, i) => `${(i % 2) + 2 * Math.floor(i / 40)}`),
  )!
  // A share of one half in 200: its deviation is 0.035, so that 1.96 of it are 0.069.
  for (const bound of [0.5 - alone.low, alone.high - 0.5]) assert.ok(Math.abs(bound - 0.069) < 0.01, `${bound}`)
  assert.is(grouped.groups, 10)
  assert.ok(grouped.high - grouped.low > 3 * (alone.high - alone.low))
  assert.equal(
    bootstrap(
      meanScore('m', items),
      items.map((_, i) => `${i}`),
    ),
    alone,
    'the same again',
  )
  assert.is(bootstrap(meanScore('m', [1, 0]), ['v', 'v']), undefined)
})

test('two runs: the difference is tested pair by pair', async () => {
  const groups = Array.from({ length: 100 }, (_, i) => `${i}`)
  const run = (right: (i: number) => boolean) =>
    meanScore(
      'm',
      groups.map((_, i) => Number(right(i))),
    )
  const [good, bad, other] = [run((i) => i % 10 < 8), run((i) => i % 10 < 6), run((i) => i % 10 > 1)]
  const better = paired(good, bad, groups)
  near(better.difference, 0.2)
  assert.ok(better.interval!.low > 0 && better.p < 0.01, JSON.stringify(better))
  const even = paired(good, other, groups)
  near(even.difference, 0)
  assert.ok(even.interval!.low < 0 && even.interval!.high > 0 && even.p > 0.9, JSON.stringify(even))
  // Left out by one, left out by both.
  const some = paired(meanScore('m', [1, undefined, 1]), meanScore('m', [0, 1, 1]), ['a', 'b', 'c'])
  assert.equal([some.answers, some.difference], [2, 0.5])
  assert.match(await failure(() => paired(good, meanScore('x', []), groups)), /^paired test: expected one metric/)
})

test('metrics are asked for by name or kind, and a wrong name gets the nearest', async () => {
  assert.equal(metricNames(['accuracy', 'rougeL', 'accuracy']), ['accuracy', 'rougeL:google', 'rougeL:coco'])
  assert.is(new Set(METRICS).size, METRICS.length)
  assert.match(await failure(() => metricNames(['rougel:goggle'])), /did you mean rougeL:google\?$/)
})

test.run()
