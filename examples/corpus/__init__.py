"""A generator of simple Russian and English texts: news, dialogues, recommendations, few-shot layouts, JSON."""
