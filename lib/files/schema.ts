/**
 * Checks a value from a file or a caller against a zod schema, and turns the first problem into one sentence. An
 * unknown key is a problem too; the message names the nearest known one.
 */
import { z } from 'zod'
import { InputError, invalid, nearest } from '../errors.js'

/** Returns the value as the schema sees it (defaults filled in), or throws an InputError that begins with `where`. */
export function checkWith<S extends z.ZodType>(schema: S, value: unknown, where: string): z.output<S> {
  const result = schema.safeParse(value)
  if (result.success) return result.data
  const issue = result.error.issues[0]!
  throw issue.code === 'unrecognized_keys' ? unknownKey(schema, issue, where) : problem(issue, value, where)
}

/** Every key of a schema of nested objects, as dotted paths, parents included. */
export function keyPaths(schema: z.ZodType, prefix = ''): string[] {
  const object = unwrap(schema)
  if (!(object instanceof z.ZodObject)) return []
  return Object.entries(object.shape as Record<string, z.ZodType>).flatMap(([key, inner]) => {
    const path = prefix === '' ? key : `${prefix}.${key}`
    return [path, ...keyPaths(inner, path)]
  })
}

/** The object inside default(), optional(), prefault() and the like. */
function unwrap(schema: z.ZodType): z.ZodType {
  const inner =
    (schema.def as { innerType?: z.ZodType; in?: z.ZodType }).innerType ?? (schema.def as { in?: z.ZodType }).in
  return inner ? unwrap(inner) : schema
}

function unknownKey(schema: z.ZodType, issue: z.core.$ZodIssueUnrecognizedKeys, where: string): InputError {
  const key = issue.keys[0]!
  const path = dotted([...issue.path, key])
  const known = keyPaths(schema)
  const suggestion = known.find((k) => last(k) === key) ?? nearest(path, known) ?? byLastPart(key, known)
  const siblings = known.filter((k) => parent(k) === parent(path)).map(last)
  const advice = suggestion ? `did you mean ${suggestion}?` : `known keys here: ${siblings.join(', ')}.`
  return new InputError(`${where}: there is no key named ${path}; ${advice}`)
}

/** `maxFrame` written at the top may be `temporal.maxFrames`. */
function byLastPart(key: string, known: string[]): string | undefined {
  const found = nearest(key, known.map(last))
  return known.find((path) => last(path) === found)
}

function problem(issue: z.core.$ZodIssue, value: unknown, where: string): InputError {
  const path = dotted(issue.path)
  const got = valueAt(issue, value)
  const hint = got === undefined ? 'it is required' : got === null ? 'give it a value, or leave the key out' : undefined
  return invalid(path === '' ? where : `${where}: ${path}`, expected(issue), got, hint)
}

/** The part of a value that a problem is about. */
export const valueAt = ({ path }: z.core.$ZodIssue, value: unknown): unknown =>
  path.reduce<unknown>((v, key) => (v as Record<PropertyKey, unknown> | undefined)?.[key], value)

/** The expected value, in words. A message given to refine() or a check is used as it is. */
function expected(issue: z.core.$ZodIssue): string {
  switch (issue.code) {
    case 'invalid_type':
      return TYPES[issue.expected] ?? `a ${issue.expected}`
    case 'invalid_value':
      return issue.values.map((v) => JSON.stringify(v)).join(' or ')
    case 'invalid_union': {
      const parts = issue.errors.flatMap((issues) => (issues[0] ? [expected(issues[0])] : []))
      return [...new Set(parts)].join(' or ') || issue.message
    }
    case 'too_small':
      return `${sized(issue.origin)}${issue.inclusive ? 'at least' : 'more than'} ${issue.minimum}${unit(issue.origin)}`
    case 'too_big':
      return `${sized(issue.origin)}${issue.inclusive ? 'at most' : 'less than'} ${issue.maximum}${unit(issue.origin)}`
    default:
      return issue.message
  }
}

const TYPES: Record<string, string> = {
  object: 'an object',
  array: 'a list',
  int: 'a whole number',
  boolean: 'true or false',
  string: 'text',
}
const sized = (origin: string) =>
  origin === 'int' ? 'a whole number of ' : origin === 'array' ? 'a list of ' : origin === 'string' ? 'text of ' : ''
const unit = (origin: string) => (origin === 'array' ? ' entries' : origin === 'string' ? ' characters' : '')
const dotted = (path: readonly PropertyKey[]) =>
  path
    .map((p) => (typeof p === 'number' ? `[${p}]` : String(p)))
    .join('.')
    .replaceAll('.[', '[')
const last = (path: string) => path.slice(path.lastIndexOf('.') + 1)
const parent = (path: string) => path.slice(0, Math.max(0, path.lastIndexOf('.')))
