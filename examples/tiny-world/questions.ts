/**
 * Questions about scenes, with their right answers. Clips are asked the four tasks of the paper's CLEVRER-MC (moving
 * direction, count, attribute, existence), stills what an image model must know first, and groups of stills what can
 * only be answered by keeping images apart and in order.
 */

import {
  COLORS,
  DIRECTIONS,
  SHAPES,
  SIZE,
  direction,
  type Color,
  type Random,
  type Scene,
  type Shape,
  type Thing,
} from './world.js'

export const VIDEO_TASKS = ['direction', 'count', 'attribute', 'existence'] as const
export type VideoTask = (typeof VIDEO_TASKS)[number]

/** `prompt` and `answer` are words of the vocabulary; without `choices` the answer is open. */
export interface Question {
  task: string
  prompt: string[]
  answer: string[]
  choices?: string[]
}

const NUMBERS = ['zero', 'one', 'two', 'three', 'four']
const ORDINALS = ['first', 'second', 'third', 'fourth']
const YES_NO = ['yes', 'no']

function question(task: string, prompt: string, answer: string, choices?: readonly string[]): Question {
  return { task, prompt: prompt.split(' '), answer: answer.split(' '), ...(choices && { choices: [...choices] }) }
}

// --- clips ----------------------------------------------------------------------------------------------------------

/**
 * Asks the clips of a split one after the other. It remembers what it asked, which is how answers come out balanced:
 * count once for each number of movers (not of the second clip with one mover in a cycle of five), direction of the
 * mover whose direction was asked least, existence in turn of a mover and of an object at rest.
 */
export class Interviewer {
  #asked = new Map<string, number>(DIRECTIONS.map((d) => [d, 0]))
  #mover = false

  /** The questions about clip `index`, whose number of movers follows MOVERS. */
  ask(scene: Scene, index: number, random: Random): Question[] {
    const moving = scene.things.filter((t) => direction(t) !== undefined)
    const resting = scene.things.filter((t) => direction(t) === undefined)
    const out: Question[] = []
    if (index % 5 < 4)
      out.push(question('count', 'how many objects move ?', NUMBERS[moving.length]!, NUMBERS.slice(0, 4)))
    if (moving.length === 1)
      out.push(question('attribute', 'what color is the moving object ?', moving[0]!.color, COLORS))
    if (moving.length > 0 && random.chance(0.75)) {
      const asked = (t: Thing): number => this.#asked.get(direction(t)!)!
      const thing = random.shuffled(moving).sort((a, b) => asked(a) - asked(b))[0]!
      const way = direction(thing)!
      this.#asked.set(way, asked(thing) + 1)
      out.push(question('direction', `which way does the ${thing.color} object move ?`, way, DIRECTIONS))
    }
    if (moving.length > 0 && resting.length > 0 && random.chance(0.8)) {
      this.#mover = !this.#mover
      const { color } = random.pick(this.#mover ? moving : resting)
      out.push(question('existence', `is the ${color} object moving ?`, this.#mover ? 'yes' : 'no', YES_NO))
    }
    return out
  }
}

// --- stills ---------------------------------------------------------------------------------------------------------

/** Nearer than this to a tie (pixels), a position is not asked for. */
const CLEAR = 2

type Ask = (scene: Scene, random: Random) => Question | undefined

/** Task, weight, and how to ask it; undefined where a scene does not admit the question. */
const STILL: readonly (readonly [string, number, Ask])[] = [
  [
    'shape',
    1,
    ({ things }, random) => {
      const { color, shape } = random.pick(things)
      return question('shape', `what shape is the ${color} object ?`, shape, SHAPES)
    },
  ],
  [
    'color',
    1,
    ({ things }, random) => {
      const { color, shape } = random.pick(things)
      if (things.filter((t) => t.shape === shape).length > 1) return undefined
      return question('color', `what color is the ${shape} ?`, color, COLORS)
    },
  ],
  [
    'horizontal',
    1,
    ({ things }, random) => {
      const { color, x } = random.pick(things)
      return clear(x)
        ? question('horizontal', `is the ${color} object left or right ?`, side(x), ['left', 'right'])
        : undefined
    },
  ],
  [
    'vertical',
    1,
    ({ things }, random) => {
      const { color, y } = random.pick(things)
      return clear(y)
        ? question('vertical', `is the ${color} object up or down ?`, height(y), ['up', 'down'])
        : undefined
    },
  ],
  [
    'relative',
    0.7,
    ({ things }, random) => {
      const [a, b] = random.shuffled(things)
      const way = b && dominant(a!.x - b.x, a!.y - b.y)
      return way
        ? question('relative', `where is the ${a!.color} object from the ${b!.color} object ?`, way, DIRECTIONS)
        : undefined
    },
  ],
  [
    'side',
    1.5,
    ({ things }, random) => {
      const { color, x, y } = random.pick(things)
      const way = dominant(x - SIZE / 2, y - SIZE / 2)
      return way ? question('side', `where is the ${color} object ?`, way, DIRECTIONS) : undefined
    },
  ],
  [
    'count',
    1,
    ({ things }) => question('count', 'how many objects are there ?', NUMBERS[things.length]!, NUMBERS.slice(1)),
  ],
  [
    'count-shape',
    0.5,
    ({ things }, random) => {
      const count = (shape: Shape): number => things.filter((t) => t.shape === shape).length
      const number = random.pick([...new Set(SHAPES.map(count))]) // else most answers would be zero
      const shape = random.pick(SHAPES.filter((s) => count(s) === number))
      return question('count-shape', `how many ${shape} objects are there ?`, NUMBERS[number]!, NUMBERS)
    },
  ],
  [
    'exists',
    1,
    ({ things }, random) => {
      const yes = random.chance(0.5)
      const color = yes ? random.pick(things).color : random.pick(absent(things))
      return question('exists', `is there a ${color} object ?`, yes ? 'yes' : 'no', YES_NO)
    },
  ],
  [
    'exists-shape',
    0.7,
    ({ things }, random) => {
      const yes = random.chance(0.5)
      const thing = random.pick(things)
      if (yes) return question('exists-shape', `is there a ${thing.color} ${thing.shape} ?`, 'yes', YES_NO)
      // half of the wrong ones have the wrong shape, half a colour that is not there
      const [color, shape] = random.chance(0.5)
        ? [thing.color, random.pick(SHAPES.filter((s) => s !== thing.shape))]
        : [random.pick(absent(things)), thing.shape]
      return question('exists-shape', `is there a ${color} ${shape} ?`, 'no', YES_NO)
    },
  ],
  [
    'describe',
    1.5,
    ({ things }, random) => {
      const { color, shape, x, y } = random.pick(things)
      return clear(x) && clear(y)
        ? question('describe', `describe the ${color} object .`, `${shape} ${side(x)} ${height(y)}`)
        : undefined
    },
  ],
]

export const STILL_TASKS = STILL.map(([task]) => task)

/** One question about a still, its task drawn by weight among those that the scene admits. */
export function stillQuestion(scene: Scene, random: Random): Question {
  return draw(STILL, random, (ask) => ask(scene, random))
}

/** `count` questions about a still, no two the same. */
export function stillQuestions(scene: Scene, random: Random, count: number): Question[] {
  const out = new Map<string, Question>()
  for (let tries = 0; out.size < count && tries < 50 * count; tries++) {
    const q = stillQuestion(scene, random)
    out.set(q.prompt.join(' '), q)
  }
  return [...out.values()]
}

const clear = (c: number): boolean => Math.abs(c - SIZE / 2) >= CLEAR
const side = (x: number): string => (x < SIZE / 2 ? 'left' : 'right')
const height = (y: number): string => (y < SIZE / 2 ? 'up' : 'down')
const absent = (things: readonly Thing[]): Color[] => COLORS.filter((c) => things.every((t) => t.color !== c))

/** The way that a displacement mostly points; undefined near a tie. */
function dominant(dx: number, dy: number): string | undefined {
  if (Math.abs(Math.abs(dx) - Math.abs(dy)) < CLEAR) return undefined
  return Math.abs(dx) > Math.abs(dy) ? (dx < 0 ? 'left' : 'right') : dy < 0 ? 'up' : 'down'
}

// --- several stills, shown one after the other ----------------------------------------------------------------------

type AskAll = (scenes: readonly Scene[], random: Random) => Question | undefined

const SEVERAL: readonly (readonly [string, number, AskAll])[] = [
  [
    'image',
    3,
    (scenes, random) => {
      const at = random.int(scenes.length)
      const q = stillQuestion(scenes[at]!, random)
      return { ...q, task: `image-${q.task}`, prompt: ['in', 'the', ORDINALS[at]!, 'image', ...q.prompt] }
    },
  ],
  [
    'which',
    1,
    (scenes, random) => {
      const at = random.int(scenes.length)
      const colors = COLORS.filter((c) => scenes.every((s, i) => has(s, c) === (i === at)))
      if (colors.length === 0) return undefined
      return question(
        'which',
        `which image has a ${random.pick(colors)} object ?`,
        ORDINALS[at]!,
        ORDINALS.slice(0, scenes.length),
      )
    },
  ],
  [
    'images',
    0.5,
    (scenes, random) => {
      const count = (color: Color): number => scenes.filter((s) => has(s, color)).length
      const number = random.pick([...new Set(COLORS.map(count))])
      const color = random.pick(COLORS.filter((c) => count(c) === number))
      return question(
        'images',
        `how many images have a ${color} object ?`,
        NUMBERS[number]!,
        NUMBERS.slice(0, scenes.length + 1),
      )
    },
  ],
]

const has = (scene: Scene, color: Color): boolean => scene.things.some((t) => t.color === color)

/**
 * A question about 2–4 stills whose visual rows are concatenated in this order: mostly about one of them by its place,
 * else in which of them something is, or in how many. None compares positions between images: motion stays unseen.
 */
export function severalQuestion(scenes: readonly Scene[], random: Random): Question {
  return draw(SEVERAL, random, (ask) => ask(scenes, random))
}

/** Draws by weight until the drawn one yields a question. */
function draw<T>(
  list: readonly (readonly [string, number, T])[],
  random: Random,
  use: (ask: T) => Question | undefined,
): Question {
  const total = list.reduce((sum, [, weight]) => sum + weight, 0)
  for (;;) {
    let left = random.uniform(0, total)
    const entry = list.find(([, weight]) => (left -= weight) < 0) ?? list[0]!
    const q = use(entry[2])
    if (q) return q
  }
}
