/**
 * Fields of a Hugging Face config.json. Files leave out, or set to null, whatever equals the library's default, so each
 * field is declared with it; what this project cannot run is refused by name.
 */
import { z } from 'zod'
import { InputError, invalid, show } from '../errors.js'
import { checkWith } from '../files/schema.js'

const or = <S extends z.ZodType>(schema: S, standard: z.output<S>) => schema.nullish().transform((v) => v ?? standard)

/** A whole number of at least 1. */
export const size = (standard: number) => or(z.int().min(1), standard)
/** A number above 0. */
export const positive = (standard: number) => or(z.number().positive(), standard)
export const flag = (standard: boolean) => or(z.boolean(), standard)
export const word = (standard: string) => or(z.string(), standard)
/** A token's id; null means that there is none. */
export const tokenId = (standard: number | null) =>
  z
    .int()
    .nullable()
    .optional()
    .transform((v) => (v === undefined ? standard : v))
/** The first of several ids, too. */
export const firstTokenId = (standard: number | null) =>
  z
    .union([z.int(), z.array(z.int()).min(1), z.null()])
    .optional()
    .transform((v) => (v === undefined ? standard : Array.isArray(v) ? v[0]! : v))

/** One section of a config.json by its schema. Complaints begin with `where` and name the section. */
export function section<S extends z.ZodType>(schema: S, value: unknown, where: string, name: string): z.output<S> {
  return checkWith(z.object({ [name]: schema }), { [name]: value }, where)[name] as z.output<S>
}

/** Refuses every value but one. */
export function supported(name: string, actual: unknown, only: unknown): void {
  if (actual !== only)
    throw new InputError(`${name}: ${show(actual)} is not supported; this project runs ${show(only)} only.`)
}

/** Refuses a number that is no multiple of another. */
export function divides(at: string, name: string, whole: number, by: string, part: number): void {
  if (whole % part !== 0) throw invalid(`${at}.${name}`, `a multiple of ${by} (${part})`, whole)
}
