"""What people might ask a small chat model: the openings of the calibration chats."""

from __future__ import annotations

import random

SUBJECTS = """a lighthouse|the ocean|a lost dog|photosynthesis|the Roman Empire|gravity|a robot who learns to paint
coffee|the moon landing|a dragon|climate change|chess|jazz music|volcanoes|a small village|electric cars|winter
honey bees|the human heart|a train journey|Shakespeare|the internet|healthy breakfasts|black holes|an old clockmaker
dinosaurs|recycling|a haunted house|the French Revolution|football|whales|a bakery|vaccines|mountains|two friends|sleep
computers|the Great Wall of China|rainbows|a young wizard|gardening|money|the water cycle|a detective|penguins|tea
the solar system|friendship|a spaceship|pyramids of Egypt|bread|time management|a forest|languages|earthquakes|cats
the printing press|a brave girl|rivers|stress|public libraries|Antarctica|a talking tree|exercise|bridges|stars"""

TEMPLATES = """Write a short story about {}.|What should I know about {}?|Explain {} to a child.|Write a poem about {}.
Tell me three facts about {}.|Why is {} important?|Give me a summary of {} in two sentences.|Describe {} in detail.
Write an email to a friend about {}.|What are some good questions to ask about {}?|Once upon a time there was {}. Go on.
List five ideas for a school project about {}.|What do most people get wrong about {}?
How would you start an essay on {}?|Write a conversation between two people about {}.|Give me advice about {}."""

QUESTIONS = """What is the capital of Italy?|What is the capital of Japan?|What is 7 plus 5?|Who wrote Romeo and Juliet?
How many days are in a year?|What colour do you get from blue and yellow?|What is the largest planet?|Hello!
What is the boiling point of water?|How are you today?|What is your name?|Can you help me plan a trip to Paris?
How do I cook rice?|How do I make pancakes?|What is machine learning?|Write a Python function that reverses a string.
Write a Python function that finds prime numbers.|What is the difference between a list and a tuple in Python?
How can I learn to play the guitar?|What is the speed of light?|Who was Albert Einstein?|Who was Marie Curie?
Suggest a name for my cat.|Translate 'good morning' into Spanish.|What is a healthy dinner?|What is DNA?
What is the capital of Germany?|How do airplanes fly?|Why is the sky blue?|What causes the seasons?|Tell me a joke.
How do I write a good CV?|What are the primary colours?|What is the longest river in the world?|What is inflation?
Give me a recipe for tomato soup.|How does a computer work?|What are the planets?|Where do penguins live?|Thank you!
Write a thank-you note to my teacher.|How do I stay focused at work?|What is the meaning of the word 'curious'?
Name three European countries.|What did the ancient Greeks invent?|How do vaccines work?|What is a verb?"""


def _split(text: str) -> list[str]:
    return [piece for line in text.splitlines() for piece in line.split("|")]


HELD_OUT = 6  # prompts that no calibration chat asks, on which models are compared


def asked_prompts(seed: int) -> list[str]:
    """The prompts that calibration chats ask, in their order."""
    return chat_prompts(seed)[:-HELD_OUT]


def chat_prompts(seed: int) -> list[str]:
    """Every prompt there is (about 1100), shuffled by `seed`, with as many direct questions as fit in the front.

    A third of the first prompts are direct questions: their short answers are what a demo is asked first.
    """
    shuffle = random.Random(seed)
    stories = [template.format(subject) for template in _split(TEMPLATES) for subject in _split(SUBJECTS)]
    questions = _split(QUESTIONS)
    shuffle.shuffle(stories)
    shuffle.shuffle(questions)
    mixed: list[str] = []
    while questions:
        mixed += [questions.pop(), stories.pop(), stories.pop()]
    return mixed + stories
