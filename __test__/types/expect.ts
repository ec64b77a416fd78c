// Which type something has, to the letter: `any` is equal to nothing but itself.

type Equal<A, B> =
  (<T>() => T extends A ? 1 : 2) extends <T>() => T extends B ? 1 : 2 ? true : false;

interface Expectation<Actual> {
  toEqualTypeOf<Expected>(...mismatch: Equal<Actual, Expected> extends true ? [] : [Actual]): void;
}

/** Of a value, or of a type alone. */
export declare function expectTypeOf<Actual>(value: Actual): Expectation<Actual>;
export declare function expectTypeOf<Actual>(): Expectation<Actual>;
