/** JSON Schemas in words, for pages and comments about what users write. */

/** What is read of a JSON Schema. */
export interface JsonSchema {
  type?: string
  description?: string
  default?: unknown
  enum?: string[]
  anyOf?: JsonSchema[]
  properties?: Record<string, JsonSchema>
  required?: string[]
  items?: JsonSchema | false
  prefixItems?: JsonSchema[]
  minimum?: number
  exclusiveMinimum?: number
  maximum?: number
  exclusiveMaximum?: number
  minLength?: number
  minItems?: number
}

const NAMES: Record<string, string> = { integer: 'whole number', string: 'text', boolean: '`true` or `false`' }

/** Which values a field takes, in words (Markdown). */
export function values(schema: JsonSchema): string {
  const { type = '', enum: choices, anyOf, properties, prefixItems, items, minItems } = schema
  if (choices) return choices.map((choice) => `\`${choice}\``).join(', ')
  if (anyOf) return anyOf.map(values).join('; or ')
  if (prefixItems) return `${prefixItems.length} numbers, each ${range(prefixItems[0]!)}`
  if (properties)
    return `an object of ${Object.keys(properties)
      .map((key) => `\`${key}\``)
      .join(', ')}, each a ${values(Object.values(properties)[0]!)}`
  if (type === 'array') return `list of ${minItems ? `at least ${minItems} ` : ''}${plural(items as JsonSchema)}`
  return [NAMES[type] ?? type, type === 'integer' || type === 'number' ? range(schema) : ''].filter(Boolean).join(' ')
}

const plural = (schema: JsonSchema): string =>
  schema.type === 'string' ? 'texts' : `${values(schema).replace('number', 'numbers')}`

/** The range of a number; bounds that only say "a safe integer" are left out. */
function range({ minimum, exclusiveMinimum, maximum, exclusiveMaximum }: JsonSchema): string {
  const bounds = [
    minimum !== undefined && minimum > Number.MIN_SAFE_INTEGER ? `≥ ${minimum}` : '',
    exclusiveMinimum !== undefined ? `> ${exclusiveMinimum}` : '',
    maximum !== undefined && maximum < Number.MAX_SAFE_INTEGER ? `≤ ${maximum}` : '',
    exclusiveMaximum !== undefined ? `< ${exclusiveMaximum}` : '',
  ]
  return bounds.filter(Boolean).join(', ')
}

/** Whether a field is a section of a configuration, and not a value. */
export const isGroup = (schema: JsonSchema): boolean => schema.properties !== undefined && !schema.description
