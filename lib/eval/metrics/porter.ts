/**
 * Porter's stemmer (1980) with the changes of NLTK's default mode, which METEOR of NLTK stems with. Words are in lower
 * case; what is not a–z counts as a consonant.
 */

/** Words with a stem of their own. */
const IRREGULAR = new Map([
  ...['sky', 'news', 'inning', 'outing', 'canning', 'howe', 'proceed', 'exceed', 'succeed'].map((w) => [w, w] as const),
  ['skies', 'sky'],
  ['dying', 'die'],
  ['lying', 'lie'],
  ['tying', 'tie'],
  ['innings', 'inning'],
  ['outings', 'outing'],
  ['cannings', 'canning'],
])

/** For each letter whether it is a consonant: `y` is one at the beginning and behind a vowel. */
function consonants(word: string): boolean[] {
  const is: boolean[] = []
  for (const [i, letter] of [...word].entries())
    is.push(letter === 'y' ? i === 0 || !is[i - 1] : !'aeiou'.includes(letter))
  return is
}

/** m: how often a vowel is followed by a consonant. */
const measure = (stem: string): number =>
  consonants(stem).reduce((m, is, i, all) => m + Number(is && i > 0 && !all[i - 1]), 0)
const hasVowel = (stem: string): boolean => consonants(stem).includes(false)
const double = (word: string): boolean =>
  word.length >= 2 && word.at(-1) === word.at(-2) && consonants(word).at(-1) === true

/** Consonant, vowel, consonant other than w, x and y at the end; or the word is a vowel and a consonant. */
function short(word: string): boolean {
  const is = consonants(word)
  if (word.length === 2) return !is[0] && is[1] === true
  return word.length >= 3 && is.at(-3)! && !is.at(-2)! && is.at(-1)! && !'wxy'.includes(word.at(-1)!)
}

type Rule = [suffix: string, replacement: string, when?: (stem: string) => boolean]

/** The first rule whose suffix the word has decides, also where its condition does not hold. */
function apply(word: string, rules: readonly Rule[], otherwise: (stem: string) => boolean = () => true): string {
  const rule = rules.find(([suffix]) => word.endsWith(suffix))
  if (!rule) return word
  const [suffix, replacement, when = otherwise] = rule
  const stem = word.slice(0, word.length - suffix.length)
  return when(stem) ? stem + replacement : word
}

const some = (stem: string): boolean => measure(stem) > 0
const several = (stem: string): boolean => measure(stem) > 1

function step1b(word: string): string {
  if (word.endsWith('ied')) return word.slice(0, -3) + (word.length === 4 ? 'ie' : 'i')
  if (word.endsWith('eed')) return apply(word, [['eed', 'ee', some]])
  const suffix = ['ed', 'ing'].find((s) => word.endsWith(s) && hasVowel(word.slice(0, -s.length)))
  if (suffix === undefined) return word
  const stem = word.slice(0, -suffix.length)
  if (/(at|bl|iz)$/.test(stem)) return `${stem}e`
  if (double(stem)) return 'lsz'.includes(stem.at(-1)!) ? stem : stem.slice(0, -1)
  return measure(stem) === 1 && short(stem) ? `${stem}e` : stem
}

const STEP2: Rule[] = (
  [
    ['ational', 'ate'],
    ['tional', 'tion'],
    ['enci', 'ence'],
    ['anci', 'ance'],
    ['izer', 'ize'],
    ['bli', 'ble'],
    ['alli', 'al'],
    ['entli', 'ent'],
    ['eli', 'e'],
    ['ousli', 'ous'],
    ['ization', 'ize'],
    ['ation', 'ate'],
    ['ator', 'ate'],
    ['alism', 'al'],
    ['iveness', 'ive'],
    ['fulness', 'ful'],
    ['ousness', 'ous'],
    ['aliti', 'al'],
    ['iviti', 'ive'],
    ['biliti', 'ble'],
    ['fulli', 'ful'],
  ] as Rule[]
).concat([['logi', 'log', (stem) => some(`${stem}l`)]])

function step2(word: string): string {
  if (word.endsWith('alli') && some(word.slice(0, -4))) return step2(word.slice(0, -2))
  return apply(word, STEP2, some)
}

const STEP3: Rule[] = [
  ['icate', 'ic'],
  ['ative', ''],
  ['alize', 'al'],
  ['iciti', 'ic'],
  ['ical', 'ic'],
  ['ful', ''],
  ['ness', ''],
]

const ending = (suffix: string): Rule => [suffix, '']
const STEP4: Rule[] = [
  ...['al', 'ance', 'ence', 'er', 'ic', 'able', 'ible', 'ant', 'ement', 'ment', 'ent'].map(ending),
  ['ion', '', (stem) => several(stem) && /[st]$/.test(stem)],
  ...['ou', 'ism', 'ate', 'iti', 'ous', 'ive', 'ize'].map(ending),
]

function step5(word: string): string {
  const stem = word.slice(0, -1)
  if (word.endsWith('e') && (several(stem) || (measure(stem) === 1 && !short(stem)))) return step5b(stem)
  return step5b(word)
}
const step5b = (word: string): string => (word.endsWith('ll') && several(word.slice(0, -1)) ? word.slice(0, -1) : word)

/** The stem of a word in lower case. */
export function stem(word: string): string {
  const known = IRREGULAR.get(word)
  if (known !== undefined) return known
  if (word.length <= 2) return word
  const plural = /^.ies$/.test(word)
    ? `${word.slice(0, -1)}`
    : apply(word, [
        ['sses', 'ss'],
        ['ies', 'i'],
        ['ss', 'ss'],
        ['s', ''],
      ])
  const past = step1b(plural)
  const y = apply(past, [['y', 'i', (s) => s.length > 1 && consonants(s).at(-1)!]])
  return step5(apply(apply(step2(y), STEP3, some), STEP4, several))
}
