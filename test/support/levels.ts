/** Instruction sets that MT_CPU may name on this architecture, the best first. */
export const LEVELS = process.arch === 'arm64' ? ['neon', 'portable'] : ['avx512', 'avx2', 'portable']
