/** UR-FUNNY v2 (ROC-HCI/UR-FUNNY): humour in talks, a punchline after its context. */
import { NumpyArray, readPickle, type PickleValue } from '../../files/pickle.js'
import { leftOut, limitTrain, otherForm, type Dataset, type Entry, type Split } from './dataset.js'

const PUBLISHER = 'ROC-HCI/UR-FUNNY (v2)'

/** A text of Python 3, or bytes of Python 2. */
const text = (value: PickleValue | undefined): string | undefined =>
  typeof value === 'string' ? value : value instanceof Uint8Array ? new TextDecoder().decode(value) : undefined
/** An id is a number or a text, depending on the version. */
const idOf = (value: PickleValue): string => text(value) ?? String(value)

/** A dictionary with keys as text. */
async function table(path: string): Promise<Map<string, PickleValue>> {
  const value = await readPickle(path)
  if (!(value instanceof Map)) throw otherForm(path, 'a pickled dictionary', new Error('something else'))
  return new Map([...value].map(([key, v]) => [idOf(key), v]))
}
const listOf = (value: PickleValue | undefined): readonly PickleValue[] | undefined =>
  Array.isArray(value)
    ? value
    : value instanceof NumpyArray
      ? (Array.from(value.data as ArrayLike<PickleValue>) as PickleValue[])
      : value instanceof Set
        ? [...value]
        : undefined

export const urFunny: Dataset = {
  name: 'ur-funny',
  title: 'UR-FUNNY v2',
  positive: 'humorous',
  metrics: ['accuracy'],
  paper: ({ trainLimit }) => ({
    train: { samples: Math.min(trainLimit ?? 7614, 7614), ...(!trainLimit && { positive: 3810, negative: 3804 }) },
    val: { samples: 980, positive: 494, negative: 486 },
    test: { samples: 994, positive: 490, negative: 504 },
  }),
  async read(source, { trainLimit }) {
    const [foldsPath, languagePath, labelsPath] = ['data_folds.pkl', 'language_sdk.pkl', 'humor_label_sdk.pkl'].map(
      (name) => source.need(name, PUBLISHER),
    ) as [string, string, string]
    const [folds, language, labels] = [await table(foldsPath), await table(languagePath), await table(labelsPath)]
    const entries: Entry[] = []
    const lacking: string[] = []
    for (const [key, split] of Object.entries({ train: 'train', dev: 'val', test: 'test' } as const)) {
      const ids = listOf(folds.get(key))
      if (!ids) throw otherForm(foldsPath, `a list of ids named ${key}`, [...folds.keys()])
      for (const id of ids.map(idOf)) {
        const said = language.get(id)
        const label = labels.get(id)
        if (!(said instanceof Map) || label === undefined) {
          lacking.push(id)
          continue
        }
        entries.push(entryOf(id, split, said, label, languagePath, labelsPath))
      }
    }
    return {
      entries: limitTrain(entries, trainLimit),
      notices: leftOut('without a text or a label', lacking),
    }
  },
}

function entryOf(
  id: string,
  split: Split,
  said: Map<PickleValue, PickleValue>,
  label: PickleValue,
  languagePath: string,
  labelsPath: string,
): Entry {
  const byKey = new Map([...said].map(([key, value]) => [idOf(key), value]))
  const punchline = text(byKey.get('punchline_sentence'))
  const context = listOf(byKey.get('context_sentences'))?.map((line) => text(line))
  if (punchline === undefined || !context?.every((line) => line !== undefined))
    throw otherForm(`${languagePath}: ${id}`, 'texts punchline_sentence and context_sentences', [...byKey.keys()])
  const value = listOf(label)?.[0] ?? label
  if (Number(value) !== 0 && Number(value) !== 1)
    throw otherForm(`${labelsPath}: ${id}`, 'a label 0 or 1', String(value))
  return {
    id,
    split,
    video: id,
    group: id,
    label: Number(value) ? 'humorous' : 'serious',
    fields: {
      punchline,
      utterance: punchline,
      context: context.join('\n'),
      dialogue: [...context, punchline].join('\n'),
    },
  }
}
