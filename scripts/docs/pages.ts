// Pages about what users write, from the JSON Schemas that check it: docs/configuration.md and docs/data.md.
import { manifestJsonSchema } from '../../lib/data/manifest.js'
import { isGroup, values, type JsonSchema } from '../../lib/report/json-schema.js'
import { markdownTable } from '../../lib/report/table.js'
import { trainConfigJsonSchema } from '../../lib/train/config.js'

/** A row for each field; `required` fields say so in place of a default. */
function rows(schema: JsonSchema, prefix: string): string[][] {
  return Object.entries(schema.properties ?? {})
    .filter(([, inner]) => !isGroup(inner))
    .map(([key, inner]) => {
      const preset =
        inner.default !== undefined
          ? `\`${JSON.stringify(inner.default)}\``
          : schema.required?.includes(key)
            ? 'required'
            : '–'
      return [`\`${prefix}${key}\``, values(inner), preset, inner.description ?? '']
    })
}

const table = (lines: string[][]): string => markdownTable(['key', 'values', 'default', 'meaning'], lines)

const TITLES: Record<string, string> = {
  data: 'Data',
  train: 'Training',
  text: 'Text',
  temporal: 'Attention over time',
  dar: 'Routing',
  lora: 'LoRA',
}
const LINKS: Record<string, string> = {
  train: 'objective',
  text: 'early-fusion',
  temporal: 'channel-swap',
  dar: 'routing',
  lora: 'lora',
}

/** docs/configuration.md */
export function configurationPage(): string {
  const schema = trainConfigJsonSchema() as JsonSchema
  const groups = Object.entries(schema.properties!).filter(([, inner]) => isGroup(inner))
  return `${[
    '# Configuration of a training run',
    'Written by `npm run schemas` from the schema that `mtransllama train` checks a file with; the same as [JSON Schema](config.schema.json), for editors.',
    'A configuration is a YAML (or JSON) file. Paths in it are relative to the file. A key that does not exist is an error that names the nearest one. The defaults are the paper’s where it states a value, and the choices of [the model](model.md) elsewhere.',
    '```yaml\nmodel: checkpoint\noutput: run\ndata: { train: train.jsonl, val: val.jsonl }\nframes: 8\ntrain: { batch: 4, epochs: 90 }\n```',
    '## Top level',
    table(rows(schema, '')),
    ...groups.flatMap(([key, inner]) => [
      `## ${TITLES[key] ?? key}`,
      ...(LINKS[key] ? [`Background: [the model](model.md#${LINKS[key]}).`] : []),
      table(rows(inner, `${key}.`)),
    ]),
  ].join('\n\n')}\n`
}

/** docs/data.md */
export function dataPage(): string {
  return `${[
    '# Data: the manifest',
    'Written by `npm run schemas` from the schema that reads a manifest; the same as [JSON Schema](manifest.schema.json), for editors.',
    'A manifest is a UTF-8 file with one JSON object per line, one line per sample (JSONL). Blank lines are skipped. An error names the file, the line and the id.',
    '```json\n{"id": "1", "video": "clips/1.mp4", "start": 2.5, "end": 8, "qformerText": "Sheldon: It\'s just a privilege to watch your mind at work.", "prompt": "Pair with the past dialogue and video, is it sarcastic?", "answer": "Yes! it is sarcastic.", "choices": ["Yes! it is sarcastic.", "No! it is not sarcastic."]}\n```',
    table(rows(manifestJsonSchema() as JsonSchema, '')),
    'A question with `choices` is answered by the choice with the least mean loss per token, others by greedy generation. [How videos are read](video.md) says which frames of a clip are taken.',
  ].join('\n\n')}\n`
}
