// What there is to play with. The build of the book writes this file anew where a generator is there.
self.stylemedParts = { about: null };
