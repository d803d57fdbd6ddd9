export const tested: string
export const released: string
export const architectures: readonly string[]
