/**
 * Review: the shown image, its objects, the selection, decisions (shown at once, taken back when the host refuses) and
 * the mask under the brush. What to look at next is the queue's; drawing is the canvas's.
 */
import { api } from '../api/client.ts';
import type { Decision, ImageRow, ReviewChange, ReviewObject, Rle } from '../../../core/contract/index.ts';
import { ActiveClock } from '../logic/activity.ts';
import { colorOf } from '../logic/colors.ts';
import type { Draft, EditTarget } from '../logic/drafts.ts';
import {
  applyDecision,
  classForNew,
  findAgain,
  isPending,
  isProposed,
  isUndecided,
  isVisible,
  keyOf,
  listOrder,
  neighbour,
  nextUndecided,
  saveDecision,
  withoutChoice,
  type ObjectKey,
} from '../logic/review.ts';
import { EditSession, type Tool } from '../canvas/edit.svelte.ts';
import { ImageSource } from '../canvas/source.svelte.ts';
import { CanvasView } from '../canvas/view.svelte.ts';
import { factsOf, type Facts } from '../api/client.ts';
import { LookAhead } from './ahead.ts';
import { app } from './app.svelte.ts';
import { forgetSteps } from './clusterSteps.ts';
import { Display } from './display.svelte.ts';
import { ReviewQueue } from './queue.svelte.ts';
import { route } from './route.svelte.ts';
import { newest, Strokes } from './strokes.ts';
import { toasts } from './toasts.svelte.ts';

class Review {
  readonly queue = new ReviewQueue();
  readonly view = new CanvasView();
  readonly source = new ImageSource();
  readonly display = new Display();

  image = $state.raw<ImageRow | null>(null);
  objects = $state.raw<readonly ReviewObject[]>([]);
  selected = $state<ObjectKey | null>(null);
  session = $state.raw<EditSession | null>(null);
  activeClassId = $state<number | null>(null);
  opening = $state(false);
  error = $state.raw<Facts | null>(null);
  /** Decisions the host has not answered yet. */
  outstanding = $state(0);

  readonly list = $derived(listOrder(this.objects));
  readonly visible = $derived(this.objects.filter(isVisible));
  readonly selectedObject: ReviewObject | null = $derived(this.visible.find((o) => keyOf(o) === this.selected) ?? null);
  readonly undecided = $derived(this.objects.filter(isUndecided).length);
  readonly rejected = $derived(this.objects.filter((o) => o.state === 'rejected').length);

  readonly clock = new ActiveClock(performance.now());
  #chain: Promise<void> = Promise.resolve();
  #openTurn = 0;
  readonly #ahead = new LookAhead();
  readonly #strokes = new Strokes();
  #refreshTimer: ReturnType<typeof setTimeout> | undefined;
  /** The shown image may have changed since it was read. */
  #stale = false;

  constructor() {
    app.onProjectSwitched(() => this.#forget());
    app.onChanged((what) => {
      if (what !== 'proposals' && what !== 'clusters' && what !== 'images') return;
      this.#ahead.forget();
      this.#stale = true;
      if (route.page !== 'review') {
        this.queue.waiting.clear(); // read again on coming back, as the image is
        return;
      }
      this.queue.refreshSoon();
      clearTimeout(this.#refreshTimer);
      this.#refreshTimer = setTimeout(() => void this.#refreshImage(), 600);
    });
  }

  // --- images ---------------------------------------------------------------------------------------------------------

  /** Shows the page: the image of the address, else one with unsaved strokes, else the queue's first. */
  async enter(imageId: number | null): Promise<void> {
    this.clock.take(performance.now());
    if (this.queue.waiting.value === null) {
      await this.queue.reset();
      this.queue.chooseMode();
    }
    const wanted = imageId ?? this.image?.id ?? this.#strokes.anyImage() ?? this.queue.images.find((i) => i.left > 0)?.imageId ?? null;
    if (wanted === null) return;
    if (wanted !== this.image?.id || this.error !== null) return this.open(wanted);
    await this.#chain;
    if (this.#stale) await this.#loadAgain();
  }

  /** Shows an image; strokes on the one before are saved first. */
  async open(imageId: number, options: { select?: (objects: readonly ReviewObject[]) => ReviewObject | null } = {}): Promise<void> {
    if (!this.#leave()) return;
    const turn = ++this.#openTurn;
    this.opening = true;
    this.error = null;
    try {
      const ahead = this.outstanding === 0 ? this.#ahead.answerFor(imageId) : null;
      await this.#chain;
      this.#stale = false;
      if (ahead) void api.lookAt.mutate({ imageId }).catch(() => {}); // a host that is gone is told elsewhere
      const answer = await (ahead ?? api.reviewImage.query({ imageId }));
      if (turn !== this.#openTurn) return;
      this.image = answer.image;
      this.objects = answer.objects;
      this.view.show(answer.image);
      this.queue.include(imageId);
      if (this.queue.mode === 'all' && this.queue.all.indexOf(imageId) < 0) void this.queue.all.find(imageId);
      const picked = options.select ? options.select(answer.objects) : (nextUndecided(this.list, null, (o) => this.queue.wants(o)) ?? null);
      this.selected = picked && keyOf(picked);
      if (this.selectedObject && (this.display.follow || options.select)) this.view.bringIntoSight(this.selectedObject.box);
      if (route.page === 'review') route.replace(`review/image/${imageId}`);
      this.#restoreDraft();
      this.#lookAhead();
    } catch (error) {
      if (turn === this.#openTurn) this.error = factsOf(error);
    } finally {
      if (turn === this.#openTurn) this.opening = false;
    }
  }

  step(by: 1 | -1): void {
    if (!this.image) return;
    const next = this.queue.neighbour(this.image.id, by);
    if (next === null)
      toasts.note(by === 1 ? 'This is the last image of the list.' : 'This is the first image of the list.', { key: 'end' });
    else void this.open(next);
  }

  /** Done goes on to the next image, as the last decision in one does. */
  async setDone(done: boolean): Promise<void> {
    const imageId = this.image?.id;
    if (imageId === undefined || !this.#leave()) return;
    try {
      await this.#chain;
      const row = await api.setImageDone.mutate({ imageId, done });
      if (done) this.queue.finish(row);
      this.queue.refreshNow();
      if (this.image?.id !== imageId) return;
      this.image = row;
      if (done) this.#goOn(this.queue.mode === 'all' ? this.queue.neighbour(imageId, 1) : null);
    } catch (error) {
      toasts.fail(error);
    }
  }

  /** What the next image needs is asked for while this one is looked at. */
  #lookAhead(): void {
    if (!this.image) return;
    const next = (this.undecided === 0 ? this.queue.nextWithWork(this.image.id) : null) ?? this.queue.neighbour(this.image.id, 1);
    if (next !== null) this.#ahead.ask(next, this.view.screen);
  }

  /** Reads the image again when the machine changed its proposals; not under a running edit or an unanswered decision. */
  async #refreshImage(): Promise<void> {
    const imageId = this.image?.id;
    if (imageId === undefined || this.session || this.outstanding > 0) return;
    this.#stale = false;
    try {
      const answer = await api.reviewImage.query({ imageId });
      if (this.image?.id !== imageId) return;
      if (this.session || this.outstanding > 0) {
        this.#stale = true;
        return;
      }
      this.image = answer.image;
      this.#adopt(answer.objects);
    } catch {
      this.#stale = true; // Shown data stay; the next change asks again.
    }
  }

  /** What the machine replaced while nobody looked is read, and what comes first selected when the selected object is gone. */
  async #loadAgain(): Promise<void> {
    await this.#refreshImage();
    if (this.session || this.selectedObject) return;
    const next = nextUndecided(this.list, null, (o) => this.queue.wants(o));
    this.selected = next && keyOf(next);
  }

  #forget(): void {
    this.#openTurn++;
    this.session = null;
    this.image = null;
    this.objects = [];
    this.selected = null;
    this.error = null;
    this.activeClassId = null;
    this.#ahead.forget();
    forgetSteps();
    this.queue.forget();
  }

  // --- selection ------------------------------------------------------------------------------------------------------

  select(object: ReviewObject | null, options: { show?: boolean } = {}): void {
    if (object && keyOf(object) === this.selected) return;
    if (!this.#leave()) return;
    this.selected = object && keyOf(object);
    if (object && options.show) this.#show(object);
  }

  walk(by: 1 | -1): void {
    const next = neighbour(this.list, this.selected, by);
    if (next) this.select(next, { show: true });
  }

  zoomToSelected(): void {
    if (this.selectedObject) this.view.zoomTo(this.selectedObject.box);
    else this.view.fit();
  }

  #show(object: ReviewObject): void {
    if (this.display.follow) this.view.zoomTo(object.box);
    else this.view.moveTo(object.box);
  }

  /** On to the next undecided object, in this image or the next one that has any. */
  #advance(list: readonly ReviewObject[], from: ObjectKey | null): void {
    const next = nextUndecided(list, from, (o) => this.queue.wants(o));
    if (next) {
      this.selected = keyOf(next);
      this.#show(next);
      if (this.undecided <= 1) this.#lookAhead();
      return;
    }
    this.selected = null;
    this.#goOn();
  }

  /** To the next image that has anything left, or the one given. */
  #goOn(otherwise: number | null = null): void {
    const next = (this.image && this.queue.nextWithWork(this.image.id)) ?? otherwise;
    if (next !== null) void this.open(next);
    else
      toasts.note(this.queue.filterName ? `Nothing left to review in ${this.queue.filterName}.` : 'Nothing left to review.', {
        key: 'end',
      });
  }

  // --- decisions ------------------------------------------------------------------------------------------------------

  async accept(): Promise<void> {
    if (this.session) return void this.commit({ advance: true });
    const object = await this.#settledSelection();
    if (!object || !isUndecided(object)) return this.#advance(this.list, this.selected);
    this.#decide({ action: 'accept', proposalId: object.id, classId: null, seconds: this.#seconds() }, object);
  }

  /** All that waits in the image but what was set aside as unsure. */
  decideRest(action: 'acceptAll' | 'rejectAll'): void {
    if (!this.image || !this.#leave()) return;
    if (!this.objects.some(isProposed)) return this.#advance(this.list, this.selected);
    this.#decide({ action, imageId: this.image.id, seconds: this.#seconds() }, null);
  }

  async reject(): Promise<void> {
    if (this.session) {
      // Strokes are not thrown away by a key that means the object.
      if (this.session.corners.length > 0) this.session.dropCorner();
      return;
    }
    const object = await this.#settledSelection();
    if (!object) return;
    const seconds = this.#seconds();
    if (isUndecided(object)) this.#decide({ action: 'reject', proposalId: object.id, seconds }, object);
    else this.#decide({ action: 'removeAnnotation', annotationId: object.id, seconds }, object);
  }

  unsure(): void {
    const object = this.selectedObject;
    if (this.session || !object || !isUndecided(object)) return;
    this.#decide({ action: 'unsure', proposalId: object.id, seconds: this.#seconds() }, object);
  }

  /** A class for the selected object; an undecided one is accepted with it unless `only`. */
  async setClass(classId: number, only: boolean): Promise<void> {
    this.activeClassId = classId;
    if (this.session) {
      this.session.setClass(classId, this.colorOf({ classId, clusterId: null }));
      if (!only && this.closePolygon()) this.commit({ advance: true });
      return;
    }
    const object = await this.#settledSelection();
    if (!object) return;
    const seconds = this.#seconds();
    if (!isUndecided(object)) this.#decide({ action: 'editAnnotation', annotationId: object.id, classId, rle: null, seconds }, null);
    else if (only) this.#decide({ action: 'setClass', proposalId: object.id, classId, seconds }, null);
    else this.#decide({ action: 'accept', proposalId: object.id, classId, seconds }, object);
  }

  async undo(): Promise<void> {
    if (this.session) {
      if (this.session.drawing) this.session.end();
      return void this.session.undo();
    }
    await this.#travel(() => api.undo.mutate());
  }

  async redo(): Promise<void> {
    if (this.session) return void this.session.redo();
    await this.#travel(() => api.redo.mutate());
  }

  /** The project's history, one step either way; it may lead to another image. */
  async #travel(call: () => Promise<ReviewChange>): Promise<void> {
    await this.#chain;
    try {
      const before = new Set(this.objects.map((o) => `${keyOf(o)}:${o.state}`));
      const change = await call();
      const touched = (objects: readonly ReviewObject[]): ReviewObject | null =>
        objects.filter(isVisible).find((o) => !before.has(`${keyOf(o)}:${o.state}`)) ?? null;
      this.#ahead.forget();
      if (change.imageId === this.image?.id) {
        this.#adopt(change.objects);
        const object = touched(change.objects);
        if (object) {
          this.selected = keyOf(object);
          this.#show(object);
        }
      } else await this.open(change.imageId, { select: (objects) => objects.find(isUndecided) ?? null });
      toasts.note(change.label, { key: 'decision' });
      this.queue.refreshSoon();
    } catch (error) {
      const facts = factsOf(error);
      if (facts.code === 'nothing-to-undo') toasts.note(facts.message, { key: 'decision' });
      else toasts.facts(facts);
    }
  }

  #seconds(): number {
    return this.clock.take(performance.now());
  }

  /** An annotation just made has no id until the host has answered. */
  async #settledSelection(): Promise<ReviewObject | null> {
    if (this.selectedObject && isPending(this.selectedObject)) await this.#chain;
    return this.selectedObject;
  }

  /** Shows the decision at once, sends it after those before it; `leaving`: the object decided on, to go on from. */
  #decide(decision: Decision, leaving: ReviewObject | null, draft?: Draft): void {
    if (!this.image) return;
    const imageId = this.image.id;
    const before = this.objects;
    const list = this.list;
    this.objects = applyDecision(before, decision, imageId);
    const undecided = new Set(this.objects.filter(isUndecided).map(keyOf));
    this.queue.drop(
      imageId,
      before.filter((o) => isUndecided(o) && !undecided.has(keyOf(o))),
    );
    if (decision.action === 'accept') this.activeClassId = decision.classId ?? leaving?.classId ?? this.activeClassId;
    this.outstanding++;
    this.#chain = this.#chain.then(() => this.#send(decision, imageId, before, draft));
    if (leaving) this.#advance(withoutChoice(list, this.objects, leaving), keyOf(leaving));
    else if (decision.action === 'acceptAll' || decision.action === 'rejectAll') this.#advance([], null);
    else if (decision.action === 'draw') this.selected = keyOf(this.objects.at(-1)!);
    else if (decision.action === 'edit') this.selected = `annotation:${-decision.proposalId}`;
  }

  async #send(decision: Decision, imageId: number, before: readonly ReviewObject[], draft: Draft | undefined): Promise<void> {
    try {
      const change = await api.decide.mutate(decision);
      this.outstanding--;
      if (draft) this.#strokes.remove(draft);
      // Later decisions are already shown; only the last answer is the whole truth.
      if (change.imageId === this.image?.id && this.outstanding === 0) this.#adopt(change.objects);
      toasts.note(change.label, { key: 'decision', button: { label: 'Undo', run: () => void this.undo() } });
    } catch (error) {
      this.outstanding--;
      if (factsOf(error).code === 'object-gone') await this.#replaced(imageId);
      else await this.#takeBack(imageId, before, () => toasts.fail(error));
      this.queue.refreshSoon();
    } finally {
      if (draft) {
        this.#strokes.answered(draft);
        if (this.image?.id === draft.imageId) this.#restoreDraft();
      }
    }
  }

  /** A decision met an object that the machine has replaced: its image is shown as it is now. */
  async #replaced(imageId: number): Promise<void> {
    this.#ahead.forget();
    if (this.image?.id !== imageId) {
      const button = { label: 'Show', run: () => void this.open(imageId) };
      return toasts.note('That proposal had been replaced: nothing was decided.', { key: 'replaced', button });
    }
    toasts.note('That proposal had been replaced. The image was loaded again.', { key: 'replaced' });
    await this.#loadAgain();
  }

  /** After a refusal: what was shown before, at once; then what the host has. */
  async #takeBack(imageId: number, before: readonly ReviewObject[], tell: () => void): Promise<void> {
    if (this.image?.id === imageId && this.outstanding === 0) this.#adopt(before);
    tell();
    try {
      const answer = await api.reviewImage.query({ imageId });
      if (this.image?.id === imageId && this.outstanding === 0) this.#adopt(answer.objects);
    } catch {
      // The host is gone; the stream brings the truth when it is back.
    }
  }

  /** Takes the host's objects; the selection follows its object. */
  #adopt(objects: readonly ReviewObject[]): void {
    const selected = this.selectedObject;
    this.objects = objects;
    if (!selected) return;
    const again = findAgain(objects, selected);
    this.selected = again && isVisible(again) ? keyOf(again) : null;
  }

  // --- drawing --------------------------------------------------------------------------------------------------------

  /** Edits the selected object with a tool, or a new one when none is selected. */
  async startEdit(tool: Tool): Promise<void> {
    if (this.session) {
      this.session.tool = tool;
      return;
    }
    const object = await this.#settledSelection();
    if (!object) return this.startNew(tool);
    this.#begin({ kind: object.kind, id: object.id }, object.rle, object.classId, object.clusterId, false, tool);
  }

  startNew(tool: Tool = 'brush'): void {
    if (!this.image || !this.#leave()) return;
    this.selected = null;
    this.activeClassId = classForNew(this.activeClassId, app.classes);
    this.#begin({ kind: 'new', id: newest() }, null, this.activeClassId, null, false, tool);
  }

  #begin(target: EditTarget, rle: Rle | null, classId: number | null, clusterId: number | null, changed: boolean, tool: Tool): void {
    if (!this.image) return;
    this.session = new EditSession({
      imageId: this.image.id,
      image: this.image,
      target,
      rle,
      classId,
      color: this.colorOf({ classId, clusterId }),
      changed,
      keep: (draft) => this.#strokes.keep(draft),
    });
    this.session.tool = tool;
  }

  /** Fills the polygon that is being drawn, if there is one. @returns false when corners are missing */
  closePolygon(): boolean {
    const session = this.session;
    if (!session || session.corners.length === 0) return true;
    if (session.corners.length < 3) {
      toasts.note('A polygon takes three corners. Backspace takes the last one away.', { key: 'end' });
      return false;
    }
    session.closePolygon(false);
    return true;
  }

  /** Saves the mask under the brush. @returns false when it cannot be saved (all erased): the edit goes on */
  commit(options: { advance: boolean }): boolean {
    const session = this.session;
    if (!session || !this.image) return true;
    if (session.drawing) session.end(); // the button is still down
    if (session.corners.length > 2) session.closePolygon(false);
    const rle = session.rle();
    const object = this.selectedObject;
    if (!session.changed) {
      this.session = null;
      if (options.advance) void this.accept();
      return true;
    }
    if (rle === null) {
      if (session.target.kind === 'new') {
        this.#drop(session);
        return true;
      }
      toasts.facts({
        code: 'mask-invalid',
        message: 'Nothing is left of the mask.',
        action: 'Paint something, or press Esc and then Delete to reject the object.',
      });
      return false;
    }
    const draft = { ...session.draft(), rle };
    this.#strokes.sending(draft);
    this.session = null;
    const { target, classId } = session;
    const decision = saveDecision(target, this.image.id, { classId, rle, seconds: this.#seconds() });
    this.#decide(decision, options.advance && target.kind === 'proposal' ? object : null, draft);
    return true;
  }

  /** Esc: the polygon's corners, then the edit (with a way back), then the selection. */
  cancel(): void {
    const session = this.session;
    if (!session) {
      this.selected = null;
      return;
    }
    if (session.corners.length > 0) {
      session.corners = [];
      return;
    }
    const draft = session.changed ? session.draft() : null;
    this.#drop(session);
    if (this.#stale) void this.#refreshImage();
    if (!draft) return;
    toasts.note('Edit discarded', {
      key: 'decision',
      button: {
        label: 'Undo',
        run: () => {
          this.#strokes.keep(draft);
          if (route.page !== 'review') route.go(`review/image/${draft.imageId}`);
          if (this.image?.id === draft.imageId) this.#restoreDraft();
          else void this.open(draft.imageId);
        },
      },
    });
  }

  /** Before anything else is shown: saves strokes. @returns false when that is impossible */
  #leave(): boolean {
    return this.commit({ advance: false });
  }

  #drop(session: EditSession): void {
    this.#strokes.remove(session);
    this.session = null;
  }

  /** Opens strokes that the host never got. */
  #restoreDraft(): void {
    if (!this.image || this.session) return;
    const found = this.#strokes.restore(this.image, this.objects, this.visible);
    if (!found) return;
    const { draft, object } = found;
    this.selected = object && keyOf(object);
    this.#begin(draft.target, draft.rle, draft.classId, object?.clusterId ?? null, true, 'brush');
    this.#strokes.keep(draft);
    toasts.note('Unsaved edit restored. Enter saves it, Esc discards it.', { key: 'restored' });
  }

  colorOf(object: { readonly classId: number | null; readonly clusterId: number | null }): string {
    return colorOf(object, app.classById);
  }
}

export const review = new Review();
