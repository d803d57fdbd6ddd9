import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import * as q from '../../examples/tiny-world/questions.js'
import { clips, stills } from '../../examples/tiny-world/render.js'
import { ANSWER_WORDS, PROMPT_WORDS, WORDS } from '../../examples/tiny-world/vocabulary.js'
import { Random, centre, stillScene, type Scene, type Thing } from '../../examples/tiny-world/world.js'

const test = suite('tiny world: questions')

const all = clips(0, 'train', 1000)
const pictures = stills(0, 3000)
const random = new Random(3)
const groups = Array.from({ length: 2000 }, (_, i) => Array.from({ length: 2 + (i % 3) }, () => stillScene(random)))
const several = groups.map((scenes) => ({ scenes, question: q.severalQuestion(scenes, random) }))

// ---------------------------------------------- the answer once more, from the words of the prompt and the scene alone

const NUMBERS = ['zero', 'one', 'two', 'three', 'four']
const ORDINALS = ['first', 'second', 'third', 'fourth']

function answer(prompt: string, scenes: readonly Scene[], clip = false): string {
  const match = (pattern: RegExp): string[] | undefined => pattern.exec(prompt)?.slice(1)
  let m: string[] | undefined
  if ((m = match(/^in the (\w+) image (.*)$/))) return answer(m[1]!, [scenes[ORDINALS.indexOf(m[0]!)]!])
  if ((m = match(/^which image has a (\w+) object \?$/))) {
    const at = scenes.flatMap((s, i) => (s.things.some((t) => t.color === m![0]) ? [i] : []))
    return at.length === 1 ? ORDINALS[at[0]!]! : 'ambiguous'
  }
  if ((m = match(/^how many images have a (\w+) object \?$/))) {
    return NUMBERS[scenes.filter((s) => s.things.some((t) => t.color === m![0])).length]!
  }
  assert.is(scenes.length, 1)
  const { things } = scenes[0]!
  const named = (color: string): Thing => things.find((t) => t.color === color)!
  const moves = (t: Thing): boolean => Math.hypot(t.dx, t.dy) > 0
  const way = (dx: number, dy: number): string =>
    Math.abs(dx) > Math.abs(dy) ? (dx < 0 ? 'left' : 'right') : dy < 0 ? 'up' : 'down'
  const displacement = (t: Thing): [number, number] => {
    const [a, b] = [centre(t, 0), centre(t, 7)]
    return [b[0] - a[0], b[1] - a[1]]
  }
  if (clip) {
    if ((m = match(/^which way does the (\w+) object move \?$/))) return way(...displacement(named(m[0]!)))
    if (prompt === 'how many objects move ?') return NUMBERS[things.filter(moves).length]!
    if (prompt === 'what color is the moving object ?')
      return things
        .filter(moves)
        .map((t) => t.color)
        .join('+')
    if ((m = match(/^is the (\w+) object moving \?$/))) return moves(named(m[0]!)) ? 'yes' : 'no'
    return 'unknown'
  }
  const across = (t: Thing): string => (t.x < 24 ? 'left' : 'right')
  const along = (t: Thing): string => (t.y < 24 ? 'up' : 'down')
  if ((m = match(/^what shape is the (\w+) object \?$/))) return named(m[0]!).shape
  if ((m = match(/^what color is the (\w+) \?$/)))
    return things
      .filter((t) => t.shape === m![0])
      .map((t) => t.color)
      .join('+')
  if ((m = match(/^is the (\w+) object left or right \?$/))) return across(named(m[0]!))
  if ((m = match(/^is the (\w+) object up or down \?$/))) return along(named(m[0]!))
  if ((m = match(/^where is the (\w+) object from the (\w+) object \?$/))) {
    return way(named(m[0]!).x - named(m[1]!).x, named(m[0]!).y - named(m[1]!).y)
  }
  if ((m = match(/^where is the (\w+) object \?$/))) return way(named(m[0]!).x - 24, named(m[0]!).y - 24)
  if (prompt === 'how many objects are there ?') return NUMBERS[things.length]!
  if ((m = match(/^how many (\w+) objects are there \?$/)))
    return NUMBERS[things.filter((t) => t.shape === m![0]).length]!
  if ((m = match(/^is there a (\w+) object \?$/))) return named(m[0]!) ? 'yes' : 'no'
  if ((m = match(/^is there a (\w+) (\w+) \?$/))) return named(m[0]!)?.shape === m[1] ? 'yes' : 'no'
  if ((m = match(/^describe the (\w+) object \.$/))) {
    const t = named(m[0]!)
    return `${t.shape} ${across(t)} ${along(t)}`
  }
  return 'unknown'
}

const right = (question: q.Question, scenes: readonly Scene[], clip = false): void => {
  const [prompt, given] = [question.prompt.join(' '), question.answer.join(' ')]
  assert.is(given, answer(prompt, scenes, clip), prompt)
  if (question.choices)
    assert.ok(question.choices.includes(given) && new Set(question.choices).size === question.choices.length, prompt)
}

test('answers about clips are right', () => {
  for (const { scene, questions } of all) for (const question of questions) right(question, [scene], true)
})

test('answers about stills are right, and a still is not asked the same twice', () => {
  for (const { scene, questions } of pictures) {
    assert.is(new Set(questions.map((x) => x.prompt.join(' '))).size, 4)
    for (const question of questions) right(question, [scene])
  }
})

test('answers about several stills are right, and mostly change with the order of the images', () => {
  let changed = 0
  for (const { scenes, question } of several) {
    right(question, scenes)
    const prompt = question.prompt.join(' ')
    if (question.task === 'images') continue
    const other = [...scenes.slice(1), scenes[0]!]
    try {
      if (answer(prompt, other) !== question.answer.join(' ')) changed++
    } catch {
      changed++ // the object asked for is not in that image
    }
  }
  assert.ok(changed > several.length / 2, `${changed} of ${several.length}`)
})

// ------------------------------------------------------------------------------------------------------------- balance

/** Answers of one task, and the share of each. */
function shares(questions: q.Question[], task: string): Map<string, number> {
  const of = questions.filter((x) => x.task === task)
  const out = new Map<string, number>()
  for (const { answer } of of) out.set(answer.join(' '), (out.get(answer.join(' ')) ?? 0) + 1 / of.length)
  return out
}

test('the answers of every video task are balanced', () => {
  const asked = all.flatMap((c) => c.questions)
  assert.equal([...new Set(asked.map((x) => x.task))].sort(), [...q.VIDEO_TASKS].sort())
  for (const [task, kinds, within] of [
    ['direction', 4, 0.01],
    ['count', 4, 0],
    ['attribute', 5, 0.06],
    ['existence', 2, 0.01],
  ] as const) {
    const found = shares(asked, task)
    assert.is(found.size, kinds, task)
    for (const [kind, share] of found)
      assert.ok(Math.abs(share - 1 / kinds) <= within + 1e-9, `${task} ${kind}: ${share}`)
  }
  // 1000 clips: 800 count, 400 attribute, about 600 direction, about 550 existence
  const number = (task: string): number => asked.filter((x) => x.task === task).length
  assert.equal([number('count'), number('attribute')], [800, 400])
  assert.ok(
    number('direction') > 550 && number('direction') < 650 && number('existence') > 500 && number('existence') < 620,
  )
})

test('no video answer can be told from the number of objects', () => {
  for (const things of [3, 4]) {
    const found = shares(
      all.filter((c) => c.scene.things.length === things).flatMap((c) => c.questions),
      'count',
    )
    for (const [kind, share] of found) assert.ok(Math.abs(share - 0.25) < 0.06, `${things} objects, ${kind}: ${share}`)
  }
})

test('the answers of still tasks are balanced, and every task is asked', () => {
  const asked = pictures.flatMap((s) => s.questions)
  assert.equal([...new Set(asked.map((x) => x.task))].sort(), [...q.STILL_TASKS].sort())
  for (const task of q.STILL_TASKS) {
    const found = shares(asked, task)
    if (task === 'count-shape')
      assert.ok(Math.max(...found.values()) < 0.45) // four of a shape are rare
    else for (const [kind, share] of found) assert.ok(share > 0.75 / found.size, `${task} ${kind}: ${share}`)
  }
})

test('every word is in the vocabulary, and the longest texts are as long as it says', () => {
  const words = new Set<string>(WORDS)
  assert.is(words.size, WORDS.length)
  const used = new Set<string>()
  let [longest, answerLength] = [0, 0]
  const asked = [...all, ...pictures].flatMap((c) => c.questions).concat(several.map((s) => s.question))
  for (const { prompt, answer, choices } of asked) {
    for (const word of [...prompt, ...answer, ...(choices ?? [])]) used.add(word)
    longest = Math.max(longest, prompt.length)
    answerLength = Math.max(answerLength, answer.length)
  }
  assert.equal([...used].sort(), [...WORDS].sort())
  assert.equal([longest, answerLength], [PROMPT_WORDS, ANSWER_WORDS])
})

test.run()
